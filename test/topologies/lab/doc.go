// Package lab lays out a containerlab topology file in network namespaces of
// this machine, runs the routers in it from Debian's packages, and gives tests
// hands and eyes on every node.
//
// # A test
//
//	l := lab.Start(t, "vipa")                   // test/topologies/vipa/topology.clab.yml
//	host, r1, client := l.Node("host"), l.Node("r1"), l.Node("client")
//
//	s := lab.StartSpeaker(t, host, binary)      // the daemon under test
//	s.WaitStatus(20*time.Second, "established", func(st *status.Status) bool { … })
//
//	probe := lab.StartProbe(t, client, host, netip.MustParseAddrPort("10.68.6.1:7"), lab.ProbeOptions{})
//	routes := r1.WatchRoute(netip.MustParsePrefix("10.68.6.1/32"))
//	wire := host.Capture()                      // every packet, BGP decoded
//
//	failed := time.Now()
//	host.LinkDown("en1")                        // or l.Unplug("host", "en1"), l.DropFrames, r1.Freeze
//	moved := routes.Wait(5*time.Second, failed, "no leg to en1", func(h []lab.Hop) bool { … })
//	t.Log(moved.Time.Sub(failed), probe.Stop().Gap(failed), wire.Messages())
//
// Everything that Start and the helpers make is gone when the test ends, also
// when it fails. If the test process dies, the kernel removes it all: each
// node's namespaces are held by a process that ends with the test process, and
// all daemons die with it.
//
// # Nodes
//
// A node is a network namespace and a mount namespace. In the latter /run is
// empty and /etc private, so the daemons run with the paths that they have in
// their containers, side by side. `binds` of the topology file are copied in,
// `exec` lines are run in order. The image says what is started: an FRR image
// starts the daemons of /etc/frr/daemons, and bfdd if frr.conf speaks of bfd, a
// BIRD image starts bird; the project's own image starts nothing, because tests
// control its life. StartRouter starts a routing software in a node of another
// image; Neighbors and Paths tell what it has heard, in the same form for all. A
// node with network-mode container:X is X under a second name.
//
// # Rules
//
// Wait with Eventually and the Wait methods, never by sleeping. Node.Do runs Go
// code in the node's network; do not start processes or goroutines in it that
// make sockets. A missing tool fails the test unless VIPSPEAKER_SKIP names it.
package lab
