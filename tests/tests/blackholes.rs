//! Blackholes on a running cluster: those that operators order, pools that are closed, and the promise that none but
//! an explicit one ever hides a living pod, whatever the agent does meanwhile.

mod blackholes {
    pub mod counted;
    pub mod living;
    pub mod ordered;
    pub mod pools;
}
