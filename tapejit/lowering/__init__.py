"""From a Tape to the code words that the interpreters run."""
