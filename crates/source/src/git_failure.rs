//! What git meant when it failed: from its standard error to a cause.
//!
//! Git has one exit status for nearly everything, so its words decide. They are stable because the environment fixes
//! the language, and every sentence that is relied upon stands in the table below and, as git wrote it, in the test.
//! What no row knows stays [`GitFailure::Other`] and is shown as it is; nothing is guessed.

/// What git meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GitFailure {
    DiskFull,
    Sha256,
    Foreign,
    Corrupt,
    UnknownHost,
    AccessDenied,
    NotFound,
    NotARepository,
    RefMissing,
    Unreachable,
    /// The kernel let a file grow no further.
    FileTooLarge,
    NoMemory,
    /// A reference cannot be beside one whose name is the beginning of its own.
    NoRoom,
    Other,
}

use GitFailure::{
    AccessDenied, Corrupt, DiskFull, FileTooLarge, Foreign, NoMemory, NoRoom, NotARepository,
    NotFound, Other, RefMissing, Sha256, UnknownHost, Unreachable,
};

/// In order: the first sentence that is found decides, the more exact before the more general.
const OWN: &[(&str, GitFailure)] = &[
    // Said by the other end of a local transfer beside the sentences below, which are then not about our mirror.
    ("repository corruption on the remote side", Other),
    // About a pack that is on its way: nothing of ours is damaged.
    ("pack has bad object", Other),
    ("pack is corrupted", Other),
    ("No space left on device", DiskFull),
    ("Disk quota exceeded", DiskFull),
    // SIGXFSZ, and EFBIG for who ignores it.
    ("died of signal 25", FileTooLarge),
    ("File too large", FileTooLarge),
    ("Out of memory, ", NoMemory),
    ("Cannot allocate memory", NoMemory),
    ("unable to create thread", NoMemory),
    ("mismatched algorithms", Sha256),
    ("unsupported object format", Sha256),
    ("detected dubious ownership", Foreign),
    ("loose object", Corrupt),
    ("is corrupt", Corrupt),
    ("bad object ", Corrupt),
    ("does not point to a valid object", Corrupt),
    ("missing blob object", Corrupt),
    ("missing tree object", Corrupt),
    ("packfile ", Corrupt),
    ("bad packed object", Corrupt),
    ("unable to read tree", Corrupt),
    ("unexpected line in", Corrupt),
    ("unresolved deltas", Corrupt),
    ("exists; cannot create", NoRoom),
    ("cannot lock ref", Corrupt),
    ("bad config line", Corrupt),
];

const ANY: &[(&str, GitFailure)] = &[
    ("Host key verification failed", UnknownHost),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", UnknownHost),
    ("Permission denied", AccessDenied),
    ("Authentication failed", AccessDenied),
    ("could not read Username", AccessDenied),
    ("could not read Password", AccessDenied),
    ("returned error: 401", AccessDenied),
    ("returned error: 403", AccessDenied),
    ("access denied or repository not exported", AccessDenied),
    ("ERROR: Repository not found", NotFound),
    ("could not be found", NotFound),
    ("No such file or directory", NotFound),
    ("returned error: 404", NotFound),
    ("returned error: 410", NotFound),
    ("does not appear to be a git repository", NotARepository),
    ("not valid: is this a git repository?", NotARepository),
    ("invalid server response; got", NotARepository),
    ("couldn't find remote ref", RefMissing),
    ("not our ref", RefMissing),
    ("unadvertised object", RefMissing),
    ("Could not resolve host", Unreachable),
    ("Couldn't resolve host", Unreachable),
    ("Temporary failure in name resolution", Unreachable),
    ("Connection refused", Unreachable),
    ("Failed to connect", Unreachable),
    ("Couldn't connect", Unreachable),
    ("Could not connect", Unreachable),
    ("Connection timed out", Unreachable),
    ("Connection reset", Unreachable),
    ("Connection closed", Unreachable),
    ("Network is unreachable", Unreachable),
    ("No route to host", Unreachable),
    ("Operation too slow", Unreachable),
    ("Operation timed out", Unreachable),
    ("Empty reply from server", Unreachable),
    ("early EOF", Unreachable),
    ("RPC failed", Unreachable),
    ("unexpected disconnect", Unreachable),
    ("hung up unexpectedly", Unreachable),
    ("returned error: 5", Unreachable),
    ("returned error: 429", Unreachable),
    ("SSL", Unreachable),
    ("certificate", Unreachable),
    ("gnutls", Unreachable),
    ("Could not read from remote repository", Unreachable),
];

/// The cause, from what git wrote to its standard error.
pub(crate) fn classify(stderr: &str) -> GitFailure {
    let own = own(stderr);
    let own_has = |needle: &str| own.iter().any(|l| l.contains(needle));
    if let Some((_, found)) = OWN.iter().find(|(needle, _)| own_has(needle)) {
        return *found;
    }
    // "repository 'https://…' not found" has its address in the middle.
    if own
        .iter()
        .any(|l| l.starts_with("fatal: repository '") && l.ends_with("' not found"))
    {
        return NotFound;
    }
    // JGit's servers: "fatal: remote error: want 1234 not valid".
    if lines(stderr).any(|l| l.contains("remote error: want ") && l.ends_with(" not valid")) {
        return RefMissing;
    }
    ANY.iter()
        .find(|(needle, _)| stderr.contains(needle))
        .map_or(Other, |(_, found)| *found)
}

/// How git begins what it repeats of a server, which may have line ends in it.
const REPEATED: &[&str] = &["remote error: ", "got '", "line: '", "packet '"];

/// What git wrote without the server's part of it: a server's full disk or broken object is not ours. Git marks each line of
/// its messages, but a text with a carriage return only once, and of what it repeats in a sentence of its own only the
/// beginning: all that follows may be the server's.
fn own(stderr: &str) -> Vec<&str> {
    let mut own = Vec::new();
    for line in stderr.split('\n') {
        for piece in line.split('\r').map(str::trim) {
            if piece.starts_with("remote:") {
                break;
            }
            if REPEATED.iter().any(|begin| piece.contains(begin)) {
                return own;
            }
            // The address is where a server redirected to.
            if is_telling(piece) && !piece.starts_with("fatal: unable to access '") {
                own.push(piece);
            }
        }
    }
    own
}

/// The lines that tell the cause, without progress and without secrets, on one line.
pub(crate) fn detail(stderr: &str) -> String {
    let telling = |l: &&str| {
        ["fatal: ", "error: ", "remote: ", "ERROR: "]
            .iter()
            .any(|p| l.starts_with(p))
    };
    let mut chosen: Vec<&str> = lines(stderr).filter(telling).collect();
    if chosen.is_empty() {
        chosen = lines(stderr).collect();
    }
    let skip = chosen.len().saturating_sub(5);
    let text = chosen[skip..].join("; ");
    // A server's words could move the cursor of whoever reads them.
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if text.is_empty() {
        "it gave no reason".to_owned()
    } else {
        mask(&text)
    }
}

fn lines(stderr: &str) -> impl Iterator<Item = &str> {
    stderr
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|l| is_telling(l))
}

/// Whether a line is more than progress.
fn is_telling(line: &str) -> bool {
    !line.is_empty() && !line.contains("% (")
}

/// Takes user information out of every address in a text: a server may redirect to one that has a token in it.
fn mask(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c == '\'' || c == '"' || c.is_whitespace())
            .unwrap_or(after.len());
        // "a://b://c": the colon is the second address's.
        let shared = after[..end].ends_with(':') && after[end..].starts_with("//");
        let (authority, tail) = after.split_at(end - usize::from(shared));
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                out.push_str("***@");
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Standard error as git 2.39 to 2.47 wrote it.
    const SAMPLES: &[(&str, GitFailure)] = &[
        (
            "error: file write error: No space left on device\nfatal: unable to write loose object file\n",
            DiskFull,
        ),
        (
            "fatal: write error: Disk quota exceeded\nfatal: index-pack failed\n",
            DiskFull,
        ),
        (
            "remote: fatal: sha1 file '<stdout>' write error: No space left on device\nfatal: early EOF\nfatal: fetch-pack: invalid index-pack output\n",
            Unreachable,
        ),
        (
            "fatal: mismatched algorithms: client sha1; server sha256\n",
            Sha256,
        ),
        (
            "fatal: detected dubious ownership in repository at '/srv/x'\nTo add an exception for this directory, call:\n\n\tgit config --global --add safe.directory /srv/x\nfatal: Could not read from remote repository.\n",
            Foreign,
        ),
        (
            "error: object file objects/12/34 is empty\nfatal: loose object 1234 (stored in objects/12/34) is corrupt\n",
            Corrupt,
        ),
        (
            "error: packfile ./objects/pack/pack-1.pack does not match index\nfatal: bad object refs/heads/main\n",
            Corrupt,
        ),
        (
            "error: refs/heads/main does not point to a valid object!\nfatal: bad object refs/heads/main\nerror: /srv/x did not send all necessary objects\n",
            Corrupt,
        ),
        (
            "fatal: unexpected line in .git/packed-refs: garbage\n",
            Corrupt,
        ),
        (
            "Host key verification failed.\r\nfatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.\n",
            UnknownHost,
        ),
        (
            "git@example.org: Permission denied (publickey).\r\nfatal: Could not read from remote repository.\n",
            AccessDenied,
        ),
        (
            "fatal: could not read Username for 'https://example.org': terminal prompts disabled\n",
            AccessDenied,
        ),
        (
            "remote: Invalid username or password.\nfatal: Authentication failed for 'https://example.org/x/'\n",
            AccessDenied,
        ),
        (
            "fatal: unable to access 'https://example.org/x/': The requested URL returned error: 403\n",
            AccessDenied,
        ),
        (
            "fatal: remote error: access denied or repository not exported: /x\n",
            AccessDenied,
        ),
        (
            "fatal: repository 'https://example.org/x/' not found\n",
            NotFound,
        ),
        (
            "ERROR: Repository not found.\nfatal: Could not read from remote repository.\n",
            NotFound,
        ),
        (
            "remote: The project you were looking for could not be found or you don't have permission to view it.\nfatal: repository 'https://example.org/x/' not found\n",
            NotFound,
        ),
        (
            "fatal: '/srv/nothing' does not appear to be a git repository\nfatal: Could not read from remote repository.\n",
            NotARepository,
        ),
        ("fatal: couldn't find remote ref HEAD\n", RefMissing),
        (
            "fatal: remote error: upload-pack: not our ref 1234567890123456789012345678901234567890\n",
            RefMissing,
        ),
        (
            "fatal: git upload-pack: not our ref 1234567890123456789012345678901234567890\nfatal: remote error: upload-pack: not our ref 1234567890123456789012345678901234567890\n",
            RefMissing,
        ),
        (
            "fatal: remote error: want 1234567890123456789012345678901234567890 not valid\n",
            RefMissing,
        ),
        (
            "error: Server does not allow request for unadvertised object 1234\n",
            RefMissing,
        ),
        (
            "fatal: unable to access 'https://nowhere.invalid/x/': Could not resolve host: nowhere.invalid\n",
            Unreachable,
        ),
        (
            "fatal: unable to access 'http://127.0.0.1:1/x/': Failed to connect to 127.0.0.1 port 1 after 0 ms: Couldn't connect to server\n",
            Unreachable,
        ),
        (
            "ssh: connect to host 127.0.0.1 port 1: Connection refused\r\nfatal: Could not read from remote repository.\n",
            Unreachable,
        ),
        (
            "error: RPC failed; curl 28 Operation too slow. Less than 1000 bytes/sec transferred the last 60 seconds\nfatal: expected flush after ref listing\n",
            Unreachable,
        ),
        (
            "fatal: unable to access 'https://example.org/x/': SSL certificate problem: unable to get local issuer certificate\n",
            Unreachable,
        ),
        (
            "fetch-pack: unexpected disconnect while reading sideband packet\nfatal: early EOF\nfatal: fetch-pack: invalid index-pack output\n",
            Unreachable,
        ),
        (
            "fatal: unable to access 'https://example.org/x/': The requested URL returned error: 502\n",
            Unreachable,
        ),
        (
            "error: index-pack died of signal 25\nfatal: fetch-pack: invalid index-pack output\n",
            FileTooLarge,
        ),
        (
            "fatal: Out of memory, malloc failed (tried to allocate 4294967297 bytes)\nfatal: fetch-pack: invalid index-pack output\n",
            NoMemory,
        ),
        (
            "error: inflate: data stream error (invalid code lengths set)\nfatal: pack has bad object at offset 12: inflate returned -3\nfatal: fetch-pack: invalid index-pack output\n",
            Other,
        ),
        (
            "error: cannot lock ref 'refs/tags/v1/x': 'refs/tags/v1' exists; cannot create 'refs/tags/v1/x'\n ! [new tag]         v1/x       -> v1/x  (unable to update local ref)\n",
            NoRoom,
        ),
        // What a server says, in every way in which git passes it on.
        (
            "fatal: remote error: upload-pack: loose object 1234 is corrupt\n",
            Other,
        ),
        (
            "fatal: remote error: sorry\nfatal: bad object HEAD\nerror: No space left on device\n",
            Other,
        ),
        (
            "remote: sorry\rfatal: bad object HEAD\nremote:\rerror: No space left on device\n",
            Other,
        ),
        (
            "fatal: git fetch-pack: expected ACK/NAK, got 'x\nerror: packfile x does not match index'\n",
            Other,
        ),
        (
            "Receiving objects:  42% (1/3)\rfatal: write error: No space left on device\nremote: sorry\n",
            DiskFull,
        ),
        ("fatal: something nobody has seen before\n", Other),
        ("", Other),
    ];

    #[test]
    fn every_sentence_has_its_cause() {
        for (stderr, cause) in SAMPLES {
            assert_eq!(classify(stderr), *cause, "{stderr}");
        }
    }

    #[test]
    fn the_detail_is_the_cause_without_progress_and_secrets() {
        let stderr = "remote: Counting objects: 100% (3/3)\rremote: Counting objects: 100% (3/3), done.\nReceiving objects:  42% (1/3)\rfatal: unable to access 'https://user:hunter2@example.org/x/': gone\n";
        assert_eq!(
            detail(stderr),
            "fatal: unable to access 'https://***@example.org/x/': gone"
        );
        assert_eq!(detail("\n"), "it gave no reason");
        assert_eq!(
            mask("see ssh://git@h and http://h/a@b"),
            "see ssh://***@h and http://h/a@b"
        );
        assert_eq!(
            mask("https://u:hunter2@e://u:hunter2@h/x"),
            "https://***@e://***@h/x"
        );
    }
}
