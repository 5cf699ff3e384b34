"""UDX without I/O: reliable ordered streams over UDP, many on one socket; docs/protocol/udx.md."""
