//! The kernel half of the dataplane against the running kernel, each test in network and mount namespaces of
//! its own. Needs root.

mod chaos;
mod fib;
mod lab;
mod multipath;
mod overrun;
mod pods;
mod resolve;
mod scale;
mod startup;
mod written;
