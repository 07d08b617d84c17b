//! What the kernel says of this process: start, CPU, memory, descriptors. Linux; elsewhere `/proc`
//! is missing and only the build is told.

use std::fs;
use std::io::Read;

use super::Families;
use crate::metrics::Id;

/// Ticks per second of the times in `/proc`: part of the Linux ABI, 100 on every architecture that
/// Rust builds for.
const USER_HZ: f64 = 100.0;

/// Adds what is known of the process.
pub(super) fn collect(families: &mut Families) {
    families.value(Id::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
    if let Some(stat) = Stat::of(&read("/proc/self/stat")) {
        families.value(Id::Cpu, &[], stat.cpu_ticks as f64 / USER_HZ);
        if let Some(boot) = boot_time(&read("/proc/stat")) {
            families.value(Id::StartTime, &[], boot as f64 + stat.start_ticks as f64 / USER_HZ);
        }
    }
    if let Some(bytes) = resident_bytes(&read("/proc/self/status")) {
        families.value(Id::ResidentMemory, &[], bytes as f64);
    }
    if let Ok(fds) = fs::read_dir("/proc/self/fd") {
        // The directory itself is one of them while it is read.
        families.value(Id::OpenFds, &[], fds.count().saturating_sub(1) as f64);
    }
    if let Some(max) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        families.value(Id::MaxFds, &[], max as f64);
    }
}

/// An unreadable file is empty: its metrics are left out.
fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = fs::File::open(path) {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Fields of `/proc/self/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Stat {
    fn of(text: &str) -> Option<Self> {
        // The second field is the name in parentheses and may hold anything, a `)` too.
        let (_, rest) = text.rsplit_once(')')?;
        let number = |field: usize| rest.split_ascii_whitespace().nth(field - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: number(14)? + number(15)?, start_ticks: number(22)? })
    }
}

/// Unix seconds at which the machine started, from `/proc/stat`.
fn boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// `VmRSS` of `/proc/self/status`.
fn resident_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found_whatever_the_name_of_the_process() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 12345 1000 200 18446744073709551615";
        assert_eq!(Stat::of(stat), Some(Stat { cpu_ticks: 300, start_ticks: 12_345 }));
        assert_eq!(Stat::of(""), None);
        assert_eq!(boot_time("cpu  1 2\nbtime 1700000000\n"), Some(1_700_000_000));
        assert_eq!(resident_bytes("VmHWM:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(resident_bytes("VmRSS:\n"), None);
    }
}
