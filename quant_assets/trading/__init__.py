"""The event-driven engine: bars in, orders and fills out, one event at a time, from replay to market."""
