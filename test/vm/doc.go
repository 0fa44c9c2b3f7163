// Package vm runs a command inside a real Debian kernel under QEMU's software
// emulation, as any user, and gives back its output, exit code and files.
//
// A run is one throw-away machine: a kernel from the cache that hack/deps.sh
// fills, and an initramfs written by this package (image.go, cpio.go) that holds
// /init (test/vm/init), the real iproute2, a few modules and whatever the caller
// adds. Nothing is shared with the host but a socket pair: output, exit code and
// result files cross it as frames (test/vm/wire), so kernel messages never mix
// into the output and no port number or path can clash with a parallel run.
//
// Guests (-guest) are further QEMU processes beside that machine, never inside
// it: their NIC and their control channel are joined to the node VM by socket
// pairs too. See test/vm/guest for what a guest answers. Where the nodes are no
// VM either, StartGuest boots a guest with its NIC on a tap of theirs.
//
// A guest with places=2 has two NICs of the node VM and moves from one to the other
// by QEMU's live migration, which a program in the node VM asks for (guestctl -host):
// move.go tells the steps, which are KubeVirt's. Its wires carry datagrams, so that
// another QEMU can take its place on one; its control channel follows it. Such a
// guest runs only from "boot" to "off" and costs nothing before.
package vm
