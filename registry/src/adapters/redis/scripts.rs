//! The requests, each one script: what it reads cannot change before it writes.

use redis::{Script, ScriptInvocation};

pub(super) const CHANNEL: &str = "{tidegate:registry}:changes";
const ENTRIES: &str = "{tidegate:registry}:entries";
const ORDER: &str = "{tidegate:registry}:order";
const CLOCK: &str = "{tidegate:registry}:clock";
/// A session's number follows.
const SESSION: &str = "{tidegate:registry}:session:";

pub(super) struct Scripts {
    pub fetch: Script,
    pub list: Script,
    pub put: Script,
    pub create: Script,
    pub replace: Script,
    pub delete: Script,
    pub grant: Script,
    pub keep_alive: Script,
    pub revoke: Script,
    pub hold: Script,
    pub claim: Script,
    pub release: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        let script = |body: &str| Script::new(&format!("{}{body}", include_str!("entries.lua")));
        Scripts {
            fetch: script(
                "local found = read(ARGV[3])
                 return found and {found.version, found.value}",
            ),
            list: script(include_str!("list.lua")),
            put: script("write(ARGV[3], '', ARGV[4])"),
            create: script(
                "if read(ARGV[3]) then return 0 end
                 write(ARGV[3], '', ARGV[4])
                 return 1",
            ),
            replace: script(
                "local found = read(ARGV[3])
                 if not found or found.version ~= ARGV[4] then return 0 end
                 write(ARGV[3], found.session, ARGV[5])
                 return 1",
            ),
            delete: script("if read(ARGV[3]) then remove(ARGV[3]) end"),
            grant: script(
                "sweep()
                 return redis.call('SET', SESSION .. ARGV[3], '', 'PX', ARGV[4], 'NX') and 1 or 0",
            ),
            keep_alive: script("return redis.call('PEXPIRE', SESSION .. ARGV[3], ARGV[4])"),
            revoke: script("redis.call('DEL', SESSION .. ARGV[3]) sweep()"),
            hold: script(
                "if not lives(ARGV[3]) then return 0 end
                 write(ARGV[4], ARGV[3], ARGV[5])
                 return 1",
            ),
            claim: script(include_str!("claim.lua")),
            release: script(
                "local found = read(ARGV[4])
                 if found and found.session == ARGV[3] then remove(ARGV[4]) end",
            ),
        }
    }
}

/// Arguments begin at `ARGV[3]`.
pub(super) fn invocation<'a>(script: &'a Script, arguments: &[&str]) -> ScriptInvocation<'a> {
    let mut invocation = script.prepare_invoke();
    invocation.key(ENTRIES).key(ORDER).key(CLOCK).arg(SESSION).arg(CHANNEL);
    for argument in arguments {
        invocation.arg(*argument);
    }
    invocation
}
