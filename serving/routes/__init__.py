"""The operations of the service, a file a topic."""
