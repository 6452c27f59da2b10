//! Requests before they are sent: which slot, which command or script, and its arguments.

use redis::{Cmd, Pipeline};

use super::keys::Key;

/// A script whose text and its SHA-1 belong together.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    sha: String,
}

macro_rules! scripts {
    ($($name:ident = $($file:literal)and+),+ $(,)?) => {
        /// Every script, with its hash made once. One of several files is their texts, one after the other.
        #[derive(Debug)]
        pub struct Scripts { $(pub $name: Script),+ }

        impl Scripts {
            pub fn new() -> Scripts {
                Scripts { $($name: Script::new(concat!($(include_str!(concat!("lua/", $file))),+))),+ }
            }
        }
    };
}

scripts!(
    route_put = "route_put.lua",
    route_drop = "route_drop.lua",
    instance_drop = "instance_drop.lua",
    head = "forward.lua" and "head.lua",
    cursor = "forward.lua" and "cursor.lua",
    dedup = "dedup.lua",
    hot_put = "hot_put.lua",
    queue_put = "queue_put.lua",
    queue_read = "queue_read.lua",
    ring = "ring.lua",
);

impl Script {
    fn new(text: &'static str) -> Script {
        Script { text, sha: redis::Script::new(text).get_hash().to_owned() }
    }
}

enum Verb<'a> {
    Command(&'static str),
    Script(&'a Script),
}

/// One request.
pub struct Call<'a> {
    pub slot: u16,
    verb: Verb<'a>,
    arguments: Vec<Vec<u8>>,
}

impl<'a> Call<'a> {
    pub fn command(name: &'static str, key: Key) -> Call<'a> {
        Call { slot: key.slot, verb: Verb::Command(name), arguments: vec![key.name] }
    }

    /// All keys stand in the slot of the first.
    pub fn script(script: &'a Script, key: Key, more: Option<Vec<u8>>) -> Call<'a> {
        let number = if more.is_some() { b"2" } else { b"1" };
        let mut arguments = vec![number.to_vec(), key.name];
        arguments.extend(more);
        Call { slot: key.slot, verb: Verb::Script(script), arguments }
    }

    pub fn arg(mut self, argument: impl Into<Vec<u8>>) -> Call<'a> {
        self.arguments.push(argument.into());
        self
    }

    pub fn number(self, number: impl std::fmt::Display) -> Call<'a> {
        self.arg(number.to_string())
    }

    pub fn args(mut self, arguments: impl IntoIterator<Item = Vec<u8>>) -> Call<'a> {
        self.arguments.extend(arguments);
        self
    }
}

/// A pipeline of one slot. The first use of a script carries its text, so that the server knows it by its hash for the rest:
/// whatever the server forgot, no request comes back for want of a script.
pub fn pipeline(calls: &[&Call<'_>]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(calls.len());
    let mut known: Vec<&str> = Vec::new();
    for call in calls {
        let mut command = Cmd::new();
        match &call.verb {
            Verb::Command(name) => command.arg(name),
            Verb::Script(script) if known.contains(&script.sha.as_str()) => command.arg("EVALSHA").arg(&script.sha),
            Verb::Script(script) => {
                known.push(&script.sha);
                command.arg("EVAL").arg(script.text)
            }
        };
        call.arguments.iter().for_each(|argument| {
            command.arg(argument.as_slice());
        });
        pipeline.add_command(command);
    }
    pipeline
}
