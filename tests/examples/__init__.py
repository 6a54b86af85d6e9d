"""What is in examples/ does what its pages say."""
