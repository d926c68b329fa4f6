package topologies

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// countSolicits counts the ARP requests and neighbour solicitations that come to
// the far end of a leg.
func countSolicits(l *lab.Lab, at leg) {
	l.Node(at.node).Run("nft", fmt.Sprintf(`add table netdev lab_nd
add chain netdev lab_nd in { type filter hook ingress device %s priority 0; }
add rule netdev lab_nd in arp operation request counter
add rule netdev lab_nd in icmpv6 type nd-neighbor-solicit counter`, at.dev))
}

// solicits is how many of both there were.
func solicits(t *testing.T, l *lab.Lab, at leg) (n int) {
	t.Helper()
	for _, m := range regexp.MustCompile(`packets (\d+)`).FindAllStringSubmatch(l.Node(at.node).Run("nft", "list", "table", "netdev", "lab_nd"), -1) {
		count, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		n += count
	}
	return n
}

// Probes that are switched off are not sent: on the other interface there are two
// a second of each family meanwhile.
func TestGatewayProbeOff(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	off, on := legs()[0], legs()[1]
	s := startPaths(t, l, pathConfig{interfaces: map[string]string{off.ifc: "gateway_probe: {enabled: false}"}})
	waitClientHasBoth(t, l)
	countSolicits(l, off)
	countSolicits(l, on)
	const enough = 16 // 4 s
	lab.Eventually(t, 20*time.Second, on.ifc+" is probed", func() error {
		n := solicits(t, l, on)
		return lab.That(n >= enough, "%d times", n)
	})
	// The kernel asks by itself now and then.
	if n := solicits(t, l, off); n > enough/4 {
		t.Errorf("%s was asked %d times", off.node, n)
	} else {
		t.Logf("%s was asked %d times, %s %d times", off.node, n, on.node, solicits(t, l, on))
	}
	st := s.WaitStatus(20*time.Second, "a picture", func(*status.Status) error { return nil })
	if n := interfaceAt(st, off.ifc); len(n.Probes) > 0 || !n.Usable {
		t.Errorf("%s: probes %+v, usable %t", n.Name, n.Probes, n.Usable)
	}
}
