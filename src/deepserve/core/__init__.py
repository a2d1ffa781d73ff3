"""What things are. Values without behaviour, without a wire format, without input or output."""
