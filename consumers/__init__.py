"""Job workers, the relay and the bridges: the programs that consume RabbitMQ."""
