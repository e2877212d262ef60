//! CRI, netlink, nftables, cgroup and kernel: the sole home of system calls.
//!
//! Everything here implements a port (trait) of a lower floor or prepares the machine for the binary;
//! no decision is taken here.

pub mod cri;
pub mod nft;
pub mod node;
pub mod pidfd;
pub mod sockets;
