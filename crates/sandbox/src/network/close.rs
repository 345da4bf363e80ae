//! The rules are put into a job's network namespace, before the job's first instruction, and read back.
//!
//! The job has no right over that namespace, so it cannot remove them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio as StdStdio};
use std::time::Duration;

use bryo_process::{Program, Running, Stdio, find_program};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, setresgid, setresuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::counters::Counters;
use super::rules::{Rule, commands};
use crate::userns::Role;
use crate::{Missing, SandboxError};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the role says when all rules are in force.
const DONE: u8 = b'1';

/// Puts the rules into the namespace whose user and network namespace are at these paths, as the host sees them. Its
/// devices must be there. Gives the namespace's counters.
pub(crate) async fn close_network(
    user: &Path,
    net: &Path,
    rules: &[Rule],
) -> Result<Counters, SandboxError> {
    let ip = find_program("ip").ok_or_else(|| {
        SandboxError::Host(vec![Missing::new(
            "the program ip is not installed",
            "install it: apt install iproute2",
        )])
    })?;
    let mut running = Program::new("/proc/self/exe")
        .arg(Role::CloseNetwork.name())
        .arg(user)
        .arg(net)
        .arg(ip)
        .start(Stdio::Piped)
        .map_err(SandboxError::program("set the rules of the job's network"))?;
    tokio::time::timeout(PATIENCE, talk(&mut running, rules))
        .await
        .unwrap_or_else(|_| Err(failed("ip did not answer in time")))
}

fn failed(why: &str) -> SandboxError {
    SandboxError::Network(why.to_owned())
}

/// The role ends with its input, so it still lives in the namespace when its counters are opened.
async fn talk(running: &mut Running, rules: &[Rule]) -> Result<Counters, SandboxError> {
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = running.take_pipes() else {
        return Err(failed("it has no pipes"));
    };
    let mut text: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
    text.push('\n');
    // One that has died already tells why on standard error.
    let _ = stdin.write_all(text.as_bytes()).await;
    let mut answer = [0];
    if stdout.read_exact(&mut answer).await.is_err() || answer != [DONE] {
        let mut said = String::new();
        let _ = stderr.read_to_string(&mut said).await;
        return Err(failed(said.trim()));
    }
    let counters = running.id().map(Counters::of);
    drop(stdin);
    let _ = running.wait().await;
    counters
        .ok_or_else(|| failed("it has no process id"))?
        .map_err(|e| failed(&format!("its counters cannot be read: {e}")))
}

/// `USER-NAMESPACE NETWORK-NAMESPACE IP`: joins both and sets the rules that are on standard input up to an empty line.
pub(crate) fn close_network_main(args: &[OsString]) -> Result<(), String> {
    let [user, net, ip] = args else {
        return Err("usage: USER-NAMESPACE NETWORK-NAMESPACE IP".to_owned());
    };
    let mut stdin = std::io::stdin().lock();
    let mut rules: Vec<Rule> = Vec::new();
    loop {
        let mut line = String::new();
        match stdin.read_line(&mut line) {
            Ok(n) if n > 0 => {}
            _ => return Err("the list of rules has no end".to_owned()),
        }
        match line.trim_end() {
            "" => break,
            text => rules.push(text.parse()?),
        }
    }
    join(user, net)?;
    let devices = devices()?;
    set(ip, &rules, true, &devices)?;
    // A kernel without IPv6 has nothing to close.
    if Path::new("/proc/self/net/if_inet6").exists() {
        set(ip, &rules, false, &devices)?;
    }
    let mut stdout = std::io::stdout();
    stdout
        .write_all(&[DONE])
        .and_then(|()| stdout.flush())
        .map_err(|e| e.to_string())?;
    let _ = stdin.read(&mut [0]);
    Ok(())
}

fn join(user: &OsStr, net: &OsStr) -> Result<(), String> {
    let open = |path: &OsStr| {
        File::open(path).map_err(|e| format!("could not open {}: {e}", Path::new(path).display()))
    };
    let (user, net) = (open(user)?, open(net)?);
    let join = |file: &File, flag| {
        setns(file, flag).map_err(|e| format!("could not join the job's namespaces: {e}"))
    };
    join(&user, CloneFlags::CLONE_NEWUSER)?;
    join(&net, CloneFlags::CLONE_NEWNET)?;
    // A program that another id than 0 starts loses the capabilities that joining gave.
    let root = |e| format!("could not become root of the job's user namespace: {e}");
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)).map_err(root)?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).map_err(root)
}

/// Those of the namespace, loopback excepted.
fn devices() -> Result<Vec<String>, String> {
    let text = fs::read_to_string("/proc/self/net/dev")
        .map_err(|e| format!("could not list the devices of the job's network: {e}"))?;
    let names = text.lines().filter_map(|line| line.split_once(':'));
    let all: Vec<String> = names
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name != "lo")
        .collect();
    match all.is_empty() {
        true => Err("the job's network has no device".to_owned()),
        false => Ok(all),
    }
}

fn set(ip: &OsStr, rules: &[Rule], v4: bool, devices: &[String]) -> Result<(), String> {
    let commands = commands(rules, v4, devices);
    if !commands.fit() {
        return Err(format!(
            "{} destinations are more than the kernel can be told; join them into larger networks",
            rules.len()
        ));
    }
    let trouble = |e: std::io::Error| format!("could not start ip: {e}");
    let mut child = Command::new(ip)
        .args([if v4 { "-4" } else { "-6" }, "-batch", "-"])
        .stdin(StdStdio::piped())
        .stdout(StdStdio::piped())
        .stderr(StdStdio::piped())
        .spawn()
        .map_err(trouble)?;
    // The listing commands stand last, so ip writes nothing before it has read everything: neither waits for the other.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(commands.batch.as_bytes());
    }
    let out = child.wait_with_output().map_err(trouble)?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(format!("ip: {}", said.trim()));
    }
    match commands.missing(&String::from_utf8_lossy(&out.stdout)) {
        Some(rule) => Err(format!("the kernel does not have {rule:?}")),
        None => Ok(()),
    }
}
