//! Stories of sources: real repositories, real git, real servers on loopback.

#[cfg(test)]
mod bed;
#[cfg(test)]
mod collecting;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http;
#[cfg(test)]
mod lfs;
#[cfg(test)]
mod lfs_server;
#[cfg(test)]
mod lfs_servers;
#[cfg(test)]
mod lfs_ways;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod local;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod reach;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod sshd;
#[cfg(test)]
mod submodules;
#[cfg(test)]
mod together;
#[cfg(test)]
mod trees;
#[cfg(test)]
mod trouble;
#[cfg(test)]
mod writable;
