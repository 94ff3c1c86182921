"""Lets schemathesis send and read archives: to it they are bytes as any others."""

import schemathesis
from schemathesis import DeserializationContext, SerializationContext
from schemathesis.transport.serialization import serialize_binary


@schemathesis.serializer("application/x-tar")
def write(_: SerializationContext, value):
    return {"data": serialize_binary(value)}


@schemathesis.deserializer("application/x-tar")
def read(_: DeserializationContext, response):
    return response.content.decode("latin-1")
