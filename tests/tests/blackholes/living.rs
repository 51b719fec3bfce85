//! A blackhole of an own block or pool never hides a living pod: addresses that moved in, pods that appear while the
//! agent runs, is stopped or dead, and new pods on old addresses, under traffic from the wire and from a neighbour.
