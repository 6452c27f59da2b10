//! Connections: slab, sessions, fan-out, slow consumers, timers, and the worker loop.
