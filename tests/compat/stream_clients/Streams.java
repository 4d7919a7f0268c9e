import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** A stream read as RabbitMQ's Java guide does: java Streams.java URL QUEUE [FILTER]. Prints what each consumer got, a line each. */
public class Streams {
    static void read(Channel channel, String queue, Map<String, Object> arguments, int count) throws Exception {
        BlockingQueue<String> got = new LinkedBlockingQueue<>();
        String tag = channel.basicConsume(queue, false, arguments, (consumer, message) -> {
            got.add(new String(message.getBody()) + "@" + message.getProperties().getHeaders().get("x-stream-offset"));
            channel.basicAck(message.getEnvelope().getDeliveryTag(), false);
        }, consumer -> { });
        List<String> lines = new ArrayList<>();
        for (String one; lines.size() < count && (one = got.poll(30, TimeUnit.SECONDS)) != null;) lines.add(one);
        channel.basicCancel(tag);
        System.out.println(String.join(" ", lines));
    }

    public static void main(String[] words) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(words[0]);
        String queue = words[1];
        try (Connection connection = factory.newConnection(); Channel channel = connection.createChannel()) {
            channel.queueDeclare(queue, true, false, false, Map.of("x-queue-type", "stream",
                "x-max-length-bytes", 20_000_000_000L, "x-stream-max-segment-size-bytes", 100_000_000));
            channel.confirmSelect();
            for (int number = 0; number < 20; number++) {
                Map<String, Object> headers = Map.of("x-stream-filter-value", number % 2 == 0 ? "even" : "odd");
                channel.basicPublish("", queue, new AMQP.BasicProperties.Builder().headers(headers).build(), ("m" + number).getBytes());
            }
            channel.waitForConfirmsOrDie(30_000);
            channel.basicQos(10);
            read(channel, queue, Map.of("x-stream-offset", "first"), 20);
            read(channel, queue, Map.of("x-stream-offset", 15), 5);
            if (words.length > 2) read(channel, queue, Map.of("x-stream-offset", "first", "x-stream-filter", List.of("odd")), 10);
        }
    }
}
