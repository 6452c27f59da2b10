//! The descriptor limit, which also bounds the table of each ring.

use std::io;

/// The most that this process may raise its limit to.
pub fn descriptors() -> io::Result<usize> {
    Ok(read()?.rlim_max as usize)
}

/// Raises the limit as far as it goes and returns it.
pub fn raise() -> io::Result<usize> {
    let mut limit = read()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: INV-1.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur as usize)
}

fn read() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: INV-1.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}
