//! A compiled filter, as a search instead of a list.
//!
//! libseccomp writes a filter as a list: one comparison for each call that has a rule. When a filter is installed the kernel
//! runs it for each call number there is, to remember those that are always allowed (since Linux 5.11). With a list of a
//! thousand comparisons that takes a good part of what it takes to start a container, with interrupts off: another processor
//! that wants something of this one waits as long. As a search it takes next to nothing.
//!
//! Only what depends on architecture and number alone is written anew. Where a filter goes on to look at something else, its
//! own instructions follow, unchanged and in their order.
//!
//! Invariant: a program that is given back decides every call as the one that came in; [`as_search`] says how that is known.
//! One that is not understood in full is not touched.

use std::collections::BTreeSet;

/// The kernel takes no longer program (`BPF_MAXINSNS`).
pub(crate) const MOST: usize = 4096;

/// Bytes of one instruction.
const SIZE: usize = 8;

/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of `struct seccomp_data`.
pub(crate) const LD: u16 = 0x20;
/// `BPF_JMP`, and on what it depends.
pub(crate) const JA: u16 = 0x05;
pub(crate) const JEQ: u16 = 0x15;
pub(crate) const JGT: u16 = 0x25;
pub(crate) const JGE: u16 = 0x35;
/// `BPF_RET | BPF_K`.
pub(crate) const RET: u16 = 0x06;

/// The bits of a code that tell what kind of instruction it is.
const CLASS: u16 = 0x07;
const JMP_CLASS: u16 = 0x05;
const RET_CLASS: u16 = 0x06;

/// Where `struct seccomp_data` has the call's number, and its architecture.
pub(crate) const NR: u32 = 0;
pub(crate) const ARCH: u32 = 4;

/// So many ranges are told apart one by one: it makes a program shorter, and a search not much longer.
const BLOCK: usize = 16;

/// One instruction (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

impl Instruction {
    pub(crate) const fn new(code: u16, k: u32) -> Self {
        Self::jump(code, k, 0, 0)
    }

    pub(crate) const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Self {
        Self { code, jt, jf, k }
    }

    /// How many instructions a jump skips that depends on nothing, or on this; `None` where it is none of these.
    pub(crate) fn skips(self, a: Option<u32>) -> Option<usize> {
        let holds = match self.code {
            JA => return usize::try_from(self.k).ok(),
            JEQ => a? == self.k,
            JGT => a? > self.k,
            JGE => a? >= self.k,
            _ => return None,
        };
        Some(usize::from(if holds { self.jt } else { self.jf }))
    }
}

/// The instructions of a program; `None` when it is none.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Instruction>> {
    let (all, rest) = bytes.as_chunks::<SIZE>();
    let is_one = rest.is_empty() && (1..=MOST).contains(&all.len());
    is_one.then(|| {
        let one = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; SIZE]| Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        };
        all.iter().map(one).collect()
    })
}

pub(crate) fn encode(program: &[Instruction]) -> Vec<u8> {
    let one = |i: &Instruction| {
        let ([c0, c1], [k0, k1, k2, k3]) = (i.code.to_ne_bytes(), i.k.to_ne_bytes());
        [c0, c1, i.jt, i.jf, k0, k1, k2, k3]
    };
    program.iter().flat_map(one).collect()
}

/// What a program does with a call of which architecture and number are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Decided(u32),
    /// From this instruction on it looks at something else.
    GoesOn(usize),
}

/// The calls from this number on, up to the next one's.
#[derive(Clone, Copy, Debug)]
struct Range {
    from: u32,
    outcome: Outcome,
}

/// What the accumulator holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum A {
    Nothing,
    Nr,
    Arch,
}

impl A {
    /// What a load leaves in it, if that is known.
    const fn after_ld(k: u32) -> Option<Self> {
        match k {
            NR => Some(Self::Nr),
            ARCH => Some(Self::Arch),
            _ => None,
        }
    }
}

/// What a program compares architecture and number with before it looks at anything else.
#[derive(Debug, Default)]
struct Compared {
    archs: BTreeSet<u32>,
    /// Where a range can begin.
    numbers: BTreeSet<u32>,
}

/// An instruction of the new program.
#[derive(Clone, Copy)]
enum Step {
    New(Instruction),
    /// A jump to this instruction of the old one.
    To(usize),
}

/// The same filter as a search; `None` when it is not understood, or would not be shorter.
///
/// Both are the same: numbers are compared with constants only, so that between two of them nothing can change; and what the
/// new program does on both sides of each of them is looked at, for each architecture, and for one that is none of these.
pub(crate) fn as_search(program: &[Instruction]) -> Option<Vec<Instruction>> {
    let Compared { archs, numbers } = compared(program)?;
    // They are compared for equality alone: all that are not named are alike.
    let other = (0..=u32::MAX).find(|arch| !archs.contains(arch))?;
    let sections: Vec<_> = archs
        .iter()
        .chain([&other])
        .map(|&arch| Some((arch, ranges(program, arch, &numbers)?)))
        .collect::<Option<_>>()?;

    let mut steps = vec![Step::New(Instruction::new(LD, ARCH))];
    for (arch, ranges) in &sections {
        let section = section(ranges)?;
        if *arch != other {
            let skip = Instruction::new(JA, u32::try_from(section.len()).ok()?);
            steps.extend([Instruction::jump(JEQ, *arch, 1, 0), skip].map(Step::New));
        }
        steps.extend(section);
    }
    let places = places(program, &steps)?;
    let new = assembled(program, &steps, &places)?;

    for (arch, ranges) in &sections {
        for number in numbers.iter().flat_map(|&n| [n, n.wrapping_sub(1)]) {
            let range = ranges.iter().rfind(|range| range.from <= number)?;
            let wanted = match range.outcome {
                Outcome::GoesOn(at) => Outcome::GoesOn(places[at]?),
                decided @ Outcome::Decided(_) => decided,
            };
            if outcome(&new, *arch, number)? != wanted {
                return None;
            }
        }
    }
    (new.len() < program.len()).then_some(new)
}

/// Follows all ways that a program can go until it looks at something else.
fn compared(program: &[Instruction]) -> Option<Compared> {
    let mut compared = Compared::default();
    compared.numbers.insert(0);
    let (mut seen, mut ahead) = (BTreeSet::new(), vec![(0, A::Nothing)]);
    while let Some((at, a)) = ahead.pop() {
        if !seen.insert((at, a)) {
            continue;
        }
        let here = *program.get(at)?;
        match (here.code, a) {
            (LD, _) => {
                ahead.extend(A::after_ld(here.k).map(|a| (at + 1, a)));
                continue;
            }
            (RET, _) => continue,
            (JA, _) => {}
            (JEQ, A::Arch) => drop(compared.archs.insert(here.k)),
            (JEQ, A::Nr) => compared.numbers.extend([here.k, here.k.wrapping_add(1)]),
            (JGT, A::Nr) => drop(compared.numbers.insert(here.k.wrapping_add(1))),
            (JGE, A::Nr) => drop(compared.numbers.insert(here.k)),
            _ => return None,
        }
        ahead.extend(next(program, at)?.into_iter().map(|at| (at, a)));
    }
    Some(compared)
}

/// Where a program can be after this instruction.
fn next(program: &[Instruction], at: usize) -> Option<Vec<usize>> {
    let here = program.get(at)?;
    let after = at + 1;
    Some(match (here.code & CLASS, here.code) {
        (RET_CLASS, _) => Vec::new(),
        (JMP_CLASS, JA) => vec![after + usize::try_from(here.k).ok()?],
        (JMP_CLASS, _) => vec![after + usize::from(here.jt), after + usize::from(here.jf)],
        _ => vec![after],
    })
}

/// What a program does with this call, as far as that does not depend on anything else.
fn outcome(program: &[Instruction], arch: u32, number: u32) -> Option<Outcome> {
    let (mut at, mut a) = (0, None);
    loop {
        let here = *program.get(at)?;
        match (here.code, A::after_ld(here.k)) {
            (RET, _) => return Some(Outcome::Decided(here.k)),
            (LD, Some(A::Arch)) => a = Some(arch),
            (LD, Some(_)) => a = Some(number),
            (LD, None) => return Some(Outcome::GoesOn(at)),
            _ => at += here.skips(a)?,
        }
        at += 1;
    }
}

fn ranges(program: &[Instruction], arch: u32, numbers: &BTreeSet<u32>) -> Option<Vec<Range>> {
    let mut ranges: Vec<Range> = Vec::new();
    for &from in numbers {
        let outcome = outcome(program, arch, from)?;
        if ranges.last().is_none_or(|last| last.outcome != outcome) {
            ranges.push(Range { from, outcome });
        }
    }
    Some(ranges)
}

/// What is done with calls of one architecture.
fn section(ranges: &[Range]) -> Option<Vec<Step>> {
    let mut section = search(ranges)?;
    if ranges.len() > 1 {
        section.insert(0, Step::New(Instruction::new(LD, NR)));
    }
    Some(section)
}

fn search(ranges: &[Range]) -> Option<Vec<Step>> {
    if ranges.len() <= BLOCK {
        return block(ranges);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let from = above.first()?.from;
    let below = search(below)?;
    let mut steps = Vec::new();
    match u8::try_from(below.len()) {
        Ok(skipped) => steps.push(Step::New(Instruction::jump(JGE, from, skipped, 0))),
        // Further than a comparison reaches.
        Err(_) => {
            let skip = Instruction::new(JA, u32::try_from(below.len()).ok()?);
            steps.extend([Instruction::jump(JGE, from, 0, 1), skip].map(Step::New));
        }
    }
    steps.extend(below);
    steps.extend(search(above)?);
    Some(steps)
}

/// A comparison for each range but the first, downwards, and then each of their outcomes once.
fn block(ranges: &[Range]) -> Option<Vec<Step>> {
    let mut outcomes = Vec::new();
    for range in ranges {
        if !outcomes.contains(&range.outcome) {
            outcomes.push(range.outcome);
        }
    }
    let mut steps = Vec::new();
    for (left, range) in ranges.iter().skip(1).enumerate().rev() {
        let which = outcomes.iter().position(|one| *one == range.outcome)?;
        let skipped = u8::try_from(left + which).ok()?;
        steps.push(Step::New(Instruction::jump(JGE, range.from, skipped, 0)));
    }
    steps.extend(outcomes.into_iter().map(|outcome| match outcome {
        Outcome::Decided(what) => Step::New(Instruction::new(RET, what)),
        Outcome::GoesOn(at) => Step::To(at),
    }));
    Some(steps)
}

/// Where those instructions of the old program are in the new one that it needs: behind its own, in their order.
fn places(program: &[Instruction], steps: &[Step]) -> Option<Vec<Option<usize>>> {
    let mut needed = vec![false; program.len()];
    let mut ahead: Vec<usize> = steps
        .iter()
        .filter_map(|step| match step {
            Step::To(at) => Some(*at),
            Step::New(_) => None,
        })
        .collect();
    while let Some(at) = ahead.pop() {
        let needed = needed.get_mut(at)?;
        if !std::mem::replace(needed, true) {
            ahead.extend(next(program, at)?);
        }
    }
    let mut place = steps.len();
    let place_of = |needed: bool| {
        let here = place;
        place += usize::from(needed);
        needed.then_some(here)
    };
    Some(needed.into_iter().map(place_of).collect())
}

/// The new program: its own instructions, and what it needs of the old one's.
fn assembled(
    program: &[Instruction],
    steps: &[Step],
    places: &[Option<usize>],
) -> Option<Vec<Instruction>> {
    // Jumps lead forwards only.
    let skip = |from: usize, to: usize| (*places.get(to)?)?.checked_sub(from + 1);
    let far = |from, to| u32::try_from(skip(from, to)?).ok();
    let near = |from, to| u8::try_from(skip(from, to)?).ok();
    let mut new = Vec::new();
    for step in steps {
        new.push(match step {
            Step::New(instruction) => *instruction,
            Step::To(at) => Instruction::new(JA, far(new.len(), *at)?),
        });
    }
    for (at, here) in program.iter().enumerate() {
        let Some(place) = places[at] else {
            continue;
        };
        new.push(match *next(program, at)? {
            [to] if here.code == JA => Instruction::new(JA, far(place, to)?),
            [jt, jf] => Instruction {
                jt: near(place, jt)?,
                jf: near(place, jf)?,
                ..*here
            },
            _ => *here,
        });
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::same_decisions;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    /// A list as libseccomp writes it: `calls` are allowed, of call 56 only with this second argument, all else is an error.
    fn list(arch: u32, calls: &[u32]) -> Vec<Instruction> {
        let mut list = vec![
            Instruction::new(LD, ARCH),
            Instruction::jump(JEQ, arch, 1, 0),
            Instruction::new(RET, 0),
            Instruction::new(LD, NR),
        ];
        for call in calls {
            list.push(Instruction::jump(JEQ, *call, 0, 1));
            list.push(Instruction::new(RET, ALLOW));
        }
        list.extend([
            Instruction::jump(JEQ, 56, 0, 5),
            Instruction::new(LD, 0x18),
            Instruction::new(0x54, 0x7e02_0000),
            Instruction::jump(JEQ, 0, 0, 1),
            Instruction::new(RET, ALLOW),
            Instruction::new(RET, EPERM),
            Instruction::new(RET, ENOSYS),
        ]);
        list
    }

    /// All that can have a rule, and beyond.
    fn numbers() -> impl Iterator<Item = u32> {
        let x32 = 0x4000_0000;
        (0..2048)
            .chain(x32 - 1..x32 + 2048)
            .chain([1 << 31, u32::MAX - 1, u32::MAX])
    }

    #[test]
    fn a_search_decides_as_the_list_does() {
        let calls: Vec<u32> = (0..50).chain(60..300).chain([0x4000_0001]).collect();
        let list = list(X86_64, &calls);
        let search = as_search(&list).unwrap();
        assert!(search.len() < 40, "{}", search.len());
        let same = same_decisions(&list, &search, &[X86_64, I386, 0], numbers());
        assert_eq!(same, Ok(()));
    }

    /// What crun 1.8.1 and 1.21 made of the profiles of Debian 12 and 13 as they are lowered, on x86.
    #[test]
    fn a_distributions_filter_becomes_a_short_search() {
        for program in [
            &include_bytes!("debian-12.bpf")[..],
            include_bytes!("debian-13.bpf"),
        ] {
            let list = decode(program).unwrap();
            let search = as_search(&list).unwrap();
            assert!(search.len() * 2 < list.len(), "{}", search.len());
            let archs = [X86_64, I386, 0xc000_00b7, 0, u32::MAX];
            assert_eq!(same_decisions(&list, &search, &archs, numbers()), Ok(()));
        }
    }

    #[test]
    fn a_search_may_be_longer_than_a_comparison_reaches() {
        let calls: Vec<u32> = (0..1200).filter(|n| n % 4 != 0).collect();
        let list = list(I386, &calls);
        let search = as_search(&list).unwrap();
        assert!(search.iter().any(|i| i.code == JA && i.k > 255));
        let same = same_decisions(&list, &search, &[X86_64, I386], numbers());
        assert_eq!(same, Ok(()));
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        let calls: Vec<u32> = (0..300).collect();
        let whole = list(X86_64, &calls);
        assert!(as_search(&whole).is_some());
        let mut bits = whole.clone();
        bits[4].code = 0x45;
        let mut order = whole.clone();
        order[1].code = JGE;
        let mut masked = whole.clone();
        masked[2] = Instruction::new(0x54, 0xff);
        let mut before = whole.clone();
        before[0] = Instruction::new(0x60, 0);
        for other in [bits, order, masked, before, whole[..9].to_vec()] {
            assert_eq!(as_search(&other), None);
        }
    }

    #[test]
    fn programs_are_read_as_they_are_written() {
        let list = list(X86_64, &[1, 2]);
        assert_eq!(decode(&encode(&list)).unwrap(), list);
        for bad in [&b""[..], b"short", &[0; SIZE * (MOST + 1)]] {
            assert_eq!(decode(bad), None);
        }
    }
}
