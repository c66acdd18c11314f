"""The protocol: pure state machines. They do no IO and read no clock; time is an argument."""
