"""Names of topics: Kafka's Topic.validate (clients/.../common/internals/Topic.java)."""

import pytest

from broker.core.topics.errors import TopicRefused
from broker.core.topics.proposing import check_name


@pytest.mark.parametrize(
    ("name", "told"),
    [(".", "'.' is not allowed"), ("..", "'..' is not allowed"), ("", "1 to 249 of"), ("a b", "1 to 249 of"),
     ("x" * 250, "1 to 249 of"), ("new\n", "1 to 249 of")],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong_with_the_name(name, told):
    """Two dots are letters that a name may have, so the set of letters cannot be the reason."""
    with pytest.raises(TopicRefused) as refused:
        check_name(name)
    assert told in refused.value.text


@pytest.mark.parametrize("name", ["...", "a.b", "_", "x" * 249])
def test_what_kafka_takes_is_taken(name):
    """Only the two names of folders are special."""
    check_name(name)
