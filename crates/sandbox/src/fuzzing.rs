//! Invariants of what parses bytes from podman, the kernel and the host's files, for any input. See
//! `bryo_model::fuzzing`.

use bryo_model::fuzzing::Chance;
use bryo_model::{IdSlot, LogStream};
use bytes::BytesMut;
use nix::sys::signal::Signal;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::Value;

use crate::cgroup::usage::{keyed, nested_sum};
use crate::cgroup::{ROOT, directory, own_line};
use crate::podman::frames::{FrameError, Frames, MOST_PIECE};
use crate::podman::proof;
use crate::seccomp::program::{self, ARCH, Instruction, JA, JEQ, JGE, JGT, LD, NR, RET};
use crate::{proc, seccomp, subid};

/// What a log stream decodes to, neighbouring pieces of one stream joined; what came before an error counts too.
type Decoded = (Vec<(LogStream, Vec<u8>)>, Option<FrameError>);

/// A log stream decodes to the same however it arrives, and to the payload that was put into it.
///
/// # Panics
///
/// When it does not.
pub fn podman_frames(data: &[u8]) {
    let mut chance = Chance::of(data);
    same_for_all_cuts(data, &mut chance);
    let (mut framed, mut payload) = (Vec::new(), Vec::new());
    for part in chance.cut(data) {
        let stream = [LogStream::Stdout, LogStream::Stderr][chance.below(2)];
        let id = if stream == LogStream::Stdout { 1 } else { 2 };
        let length = u32::try_from(part.len()).unwrap_or(0).to_be_bytes();
        framed.extend([id, 0, 0, 0]);
        framed.extend(length);
        framed.extend(part);
        join(&mut payload, stream, part);
    }
    assert_eq!(same_for_all_cuts(&framed, &mut chance), (payload, None));
}

fn same_for_all_cuts(bytes: &[u8], chance: &mut Chance) -> Decoded {
    let whole = decode(&[bytes]);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    for way in [single, chance.cut(bytes), chance.cut(bytes)] {
        assert_eq!(decode(&way), whole, "{way:?}");
    }
    whole
}

fn decode(parts: &[&[u8]]) -> Decoded {
    let (mut frames, mut arrived, mut got) = (Frames::default(), BytesMut::new(), Vec::new());
    for part in parts {
        arrived.extend_from_slice(part);
        loop {
            match frames.next(&mut arrived) {
                Ok(None) => break,
                Ok(Some(piece)) => {
                    assert!(!piece.bytes.is_empty() && piece.bytes.len() <= MOST_PIECE);
                    join(&mut got, piece.stream, &piece.bytes);
                }
                Err(error) => return (got, Some(error)),
            }
        }
    }
    (got, frames.end(&arrived).err())
}

fn join(all: &mut Vec<(LogStream, Vec<u8>)>, stream: LogStream, bytes: &[u8]) {
    match all.last_mut() {
        _ if bytes.is_empty() => {}
        Some((last, so_far)) if *last == stream => so_far.extend(bytes),
        _ => all.push((stream, bytes.to_vec())),
    }
}

/// A profile that is lowered has no condition that was not understood, and its filter no rule that the profile has not, and
/// none that leads to other sockets than those of a build.
///
/// # Panics
///
/// When it has.
pub fn seccomp_lowering(data: &[u8]) {
    let host = seccomp::Host {
        arch: "amd64",
        kernel: (6, 1),
    };
    let Ok(rules) = seccomp::rules_of(data, host) else {
        return;
    };
    // It may lack what a whole filter needs, but then says so.
    let lowered = seccomp::lower(data, host);
    for rule in lowered.iter().flat_map(LinuxSeccomp::syscalls).flatten() {
        assert!(!seccomp::is_too_open(rule), "{rule:?}");
    }
    // What is no text can only stand in a field of the profile itself that nobody reads.
    let profile: Value = serde_json::from_str(&String::from_utf8_lossy(data)).unwrap_or_default();
    let groups = profile["syscalls"].as_array().cloned().unwrap_or_default();
    let known = [
        "names", "action", "args", "comment", "includes", "excludes", "errnoRet", "errno",
    ];
    for group in &groups {
        for key in group.as_object().into_iter().flat_map(|o| o.keys()) {
            assert!(known.contains(&key.as_str()), "{key}");
        }
        for condition in ["includes", "excludes"] {
            let keys = group[condition]
                .as_object()
                .into_iter()
                .flat_map(|o| o.keys());
            for key in keys {
                assert!(
                    ["caps", "arches", "minKernel"].contains(&key.as_str()),
                    "{key}"
                );
            }
        }
    }
    let mut groups = groups.iter();
    for rule in &rules {
        let rule = serde_json::to_value(rule).unwrap_or_default();
        let same = |group: &Value| {
            let args = |v: &Value| v["args"].as_array().map_or(0, Vec::len);
            group["names"] == rule["names"]
                && group["action"] == rule["action"]
                && args(group) == args(&rule)
        };
        assert!(
            groups.any(same),
            "{rule} is not in the profile, or not in its order"
        );
    }
}

/// A compiled filter that is written as a search decides as before, whatever it is. The bytes are taken as a program, and as
/// the seed of one that jumps about between comparisons.
///
/// # Panics
///
/// When it does not.
pub fn filter_search(data: &[u8]) {
    let mut chance = Chance::of(data);
    let by_chance = program_of(&mut chance);
    for list in program::decode(data).into_iter().chain([by_chance]) {
        let Some(search) = program::as_search(&list) else {
            continue;
        };
        assert!(search.len() < list.len());
        // Around what something is compared with.
        let mut near = || {
            list[chance.below(list.len())]
                .k
                .wrapping_add(number(chance.below(3)))
        };
        let numbers: Vec<u32> = (0..40).map(|_| near().wrapping_sub(1)).collect();
        let archs = [near(), number(chance.below(6)), 0xc000_003e, 0x4000_0003];
        assert_eq!(same_decisions(&list, &search, &archs, numbers), Ok(()));
    }
}

/// One that the kernel would take: jumps lead forwards, and into it.
fn program_of(chance: &mut Chance) -> Vec<Instruction> {
    let length = 4 + chance.below(60);
    let mut program = vec![Instruction::new(LD, [ARCH, NR][chance.below(2)])];
    while program.len() < length {
        let left = length - program.len();
        let mut skip = || u8::try_from(chance.below(left.min(12))).unwrap_or(0);
        let (jt, jf) = (skip(), skip());
        let code = [JEQ, JEQ, JEQ, JGT, JGE, JA, LD, RET][chance.below(8)];
        program.push(match code {
            LD => Instruction::new(LD, [NR, ARCH, 16, 24][chance.below(4)]),
            JA => Instruction::new(JA, u32::from(jt)),
            code => Instruction::jump(code, number(chance.below(6)), jt, jf),
        });
    }
    program.push(Instruction::new(RET, 7));
    program
}

fn number(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(0)
}

/// Whether two filters decide alike, for these architectures and numbers, and for some arguments.
pub(crate) fn same_decisions(
    one: &[Instruction],
    other: &[Instruction],
    archs: &[u32],
    numbers: impl IntoIterator<Item = u32>,
) -> Result<(), String> {
    for nr in numbers {
        for &arch in archs {
            for arg in [0, 3, 0x0002_0000, 0x7e02_0000, u32::MAX] {
                let mut data = [arg; 16];
                (data[0], data[1]) = (nr, arch);
                let (one, other) = (decision(one, &data), decision(other, &data));
                if one != other {
                    return Err(format!("{data:x?}: {one:x?} and {other:x?}"));
                }
            }
        }
    }
    Ok(())
}

/// What the kernel would make of a call with this data (`struct seccomp_data`, as words).
fn decision(program: &[Instruction], data: &[u32; 16]) -> Option<u32> {
    const AND: u16 = 0x54;
    const JSET: u16 = 0x45;
    let (mut at, mut a) = (0, 0);
    loop {
        let here = program.get(at)?;
        at += 1;
        match here.code {
            RET => return Some(here.k),
            LD => a = *data.get(usize::try_from(here.k).ok()? / 4)?,
            AND => a &= here.k,
            JSET => {
                at += usize::from(match a & here.k {
                    0 => here.jf,
                    _ => here.jt,
                });
            }
            _ => at += here.skips(Some(a))?,
        }
    }
}

/// What the kernel and the host's files say is read without a stumble, and never as more than they say.
///
/// # Panics
///
/// When it is.
pub fn proc_and_cgroup(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let _ = proc::innermost(text);
    for signal in Signal::iterator() {
        let _ = proc::takes(text, signal);
    }
    let _ = proc::may_wait_for_signals(text, text);
    if let Some(value) = proc::field(text, "PPid:") {
        assert!(text.contains(value) && value == value.trim());
    }
    assert!(text.contains(proof::field(text, "NoNewPrivs")));
    if let Some(name) = own_line(text) {
        assert!(text.contains(&format!("0::{name}")));
        assert!(directory(name).starts_with(ROOT), "{name:?}");
    }
    if let Some(value) = keyed(text, "oom_kill") {
        assert!(text.contains("oom_kill") && value.to_string().len() <= text.len());
    }
    if let Some(sum) = nested_sum(text, "rbytes") {
        let twice = nested_sum(&format!("{text}\n{text}"), "rbytes");
        assert_eq!(twice, Some(sum.saturating_mul(2)), "{text:?}");
    }
    for own in [0, 1000, u32::MAX] {
        // What no map with our own id in it can be made into by lines that are not about it.
        let mapped = format!("{text}\n0 {own} 1\n");
        assert!(
            proof::check_map(&mapped, own, &[(u64::from(own), 1)]).is_err(),
            "{text:?}"
        );
    }
    for (_, count) in proof::host_ids(text, 1, IdSlot::IDS).unwrap_or_default() {
        assert!(count > 0, "{text:?}");
    }
    ids_are_ours(text);
}

fn ids_are_ours(text: &str) {
    let ranges = subid::ranges(text, "ana", 1000);
    let (mut inside, mut hosts): (u64, Vec<(u64, u64)>) = (1, Vec::new());
    for triple in subid::map(1000, &ranges, u32::MAX)[3..].chunks(3) {
        let numbers: Vec<u64> = triple.iter().filter_map(|n| n.parse().ok()).collect();
        let [first, host, count] = numbers[..] else {
            assert_eq!(numbers.len(), 3, "{triple:?}");
            return;
        };
        assert_eq!(first, inside, "{text:?}");
        // Never the host's root, and never beyond what ids there are.
        assert!(count > 0 && host > 0 && host + count <= 1 << 32, "{text:?}");
        // The kernel refuses a map with an id twice.
        let apart = |other: &(u64, u64)| host >= other.1 || host + count <= other.0;
        assert!(hosts.iter().all(apart), "{text:?}");
        hosts.push((host, host + count));
        inside += count;
    }
    assert!(
        inside <= u64::from(IdSlot::MOST * IdSlot::IDS) + 1,
        "{text:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use bryo_model::fuzzing::check_many;

    #[test]
    fn frames_hold_for_many_inputs() {
        check_many("podman_frames", podman_frames);
    }

    #[test]
    fn the_lowering_holds_for_many_inputs() {
        check_many("seccomp_lowering", seccomp_lowering);
    }

    #[test]
    fn filters_as_a_search_hold_for_many_inputs() {
        check_many("filter_search", filter_search);
    }

    #[test]
    fn what_the_kernel_says_holds_for_many_inputs() {
        check_many("proc_and_cgroup", proc_and_cgroup);
    }
}
