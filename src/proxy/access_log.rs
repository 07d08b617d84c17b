//! One line per request, buffered per core, written by one thread.
