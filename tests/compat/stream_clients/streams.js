// A stream read as amqplib's users do: node streams.js URL QUEUE [FILTER]. Prints what each consumer got, a line each.
const amqp = require('amqplib');

const [url, queue, filter] = process.argv.slice(2);

async function read(connection, args, count) {
  const channel = await connection.createChannel();
  await channel.prefetch(10);
  const got = [];
  await new Promise((resolve, reject) => {
    channel.consume(queue, (message) => {
      if (message === null) return reject(new Error('cancelled'));
      got.push(message.content.toString() + '@' + message.properties.headers['x-stream-offset']);
      channel.ack(message);
      if (got.length === count) resolve();
    }, { noAck: false, arguments: args }).catch(reject);
  });
  await channel.close();
  console.log(got.join(' '));
}

(async () => {
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(queue, {
    durable: true, arguments: { 'x-queue-type': 'stream', 'x-max-length-bytes': 2_000_000_000 },
  });
  for (let number = 0; number < 20; number++) {
    channel.sendToQueue(queue, Buffer.from('m' + number), { headers: { 'x-stream-filter-value': number % 2 ? 'odd' : 'even' } });
  }
  await channel.waitForConfirms();
  await read(connection, { 'x-stream-offset': 'first' }, 20);
  await read(connection, { 'x-stream-offset': 15 }, 5);
  if (filter) await read(connection, { 'x-stream-offset': 'first', 'x-stream-filter': 'odd' }, 10);
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
