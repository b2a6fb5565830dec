//! What tests need to start the real thing: one file a program.
