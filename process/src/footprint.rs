//! Gives back the memory of code that only starting up needed.
//!
//! A program goes through most of its text while it starts: arguments, manifests, certificates, eBPF objects. The
//! kernel maps what is touched in steps of 64 KiB and leaves it mapped, so a quiet agent would hold as much as a busy
//! one. What is unmapped here and needed again comes back from the page cache, at the price of a page fault without
//! I/O; the rest is what the kernel takes first when the node runs short of memory.

use std::fs;
use std::ops::Range;
use std::time::Duration;

use tracing::debug;

/// By now connections, if there are any, have shown which code they need.
const SETTLED: Duration = Duration::from_secs(5);

/// Waits until the process has settled, then unmaps its code once.
pub async fn settle() {
    tokio::time::sleep(SETTLED).await;
    match fs::read_to_string("/proc/self/smaps") {
        Ok(smaps) => {
            let bytes = release_text(&smaps);
            debug!("{} KiB of code unmapped", bytes / 1024);
        }
        // Less memory is all that this is about.
        Err(error) => debug!("code stays mapped: /proc/self/smaps: {error}"),
    }
}

/// How many bytes of address space were given back.
#[expect(unsafe_code, reason = "madvise takes addresses")]
fn release_text(smaps: &str) -> usize {
    let unmap = |range: &Range<usize>| {
        // SAFETY: the range is a private mapping of a file without write permission, of which no page was ever written:
        // whoever reads it next finds what the file says, as before (madvise(2), MADV_DONTNEED).
        unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) == 0 }
    };
    clean_text(smaps).iter().filter(|range| unmap(range)).map(Range::len).sum()
}

/// The mappings of files that can be read and not written, and of which the process has no copy of its own
/// (proc_pid_smaps(5)). What the loader has relocated before it took the permission to write away does not count.
fn clean_text(smaps: &str) -> Vec<Range<usize>> {
    let (mut found, mut current) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some(range) = text_mapping(line) {
            current = range;
        } else if line.strip_prefix("Anonymous:").is_some_and(|size| size.trim() == "0 kB") {
            found.extend(current.take());
        }
    }
    found
}

/// `None` for a line that is not the head of a mapping, `Some(None)` for the head of one that is none of ours.
fn text_mapping(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let read_only = matches!(words.next()?, "r-xp" | "r--p");
    let of_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    Some((read_only && of_file && !range.is_empty()).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00500000 r--p 00000000 fe:00 17 /usr/bin/culvert
Rss:                 512 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
00500000-00700000 r-xp 00100000 fe:00 17 /usr/bin/culvert
Rss:                2048 kB
Anonymous:             0 kB
00700000-00710000 r--p 00300000 fe:00 17 /usr/bin/culvert
Rss:                  64 kB
Anonymous:            64 kB
00710000-00720000 rw-p 00310000 fe:00 17 /usr/bin/culvert
Anonymous:             0 kB
01000000-01021000 rw-p 00000000 00:00 0 [heap]
Anonymous:           120 kB
7f0000000000-7f0000001000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_what_the_file_still_says_is_unmapped() {
        assert_eq!(clean_text(SMAPS), [0x40_0000..0x50_0000, 0x50_0000..0x70_0000]);
        assert!(clean_text("nonsense\nAnonymous: 0 kB\n").is_empty());
    }

    #[test]
    fn a_process_goes_on_without_its_code_mapped() {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(release_text(&smaps) > 1 << 20);
        let later = std::thread::spawn(|| format!("{:?}", "still here".chars().rev().collect::<String>()));
        assert_eq!(later.join().unwrap(), "\"ereh llits\"");
    }
}
