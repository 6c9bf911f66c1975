//! Outages under load: a server that is restarted while replicas work, a disk that is full, a clock that is set. Each time
//! everything goes on by itself afterwards, and everything is made once.

mod clocks;
mod disks;
mod restarts;
