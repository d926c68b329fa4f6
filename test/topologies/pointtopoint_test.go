package topologies

import (
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// A link whose ends are told as such, and not by a network that holds both, is a
// link like any other.
func TestPointToPoint(t *testing.T) {
	t.Parallel()
	for _, topology := range []string{"onerouter-frr", "onerouter-bird"} {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t, topology)
			host, router := l.Node("host"), l.Node("router")
			for _, end := range []struct {
				node     *lab.Node
				dev      string
				own, far string
			}{{host, "en1", "10.68.1.1", "10.68.1.2"}, {router, "e1", "10.68.1.2", "10.68.1.1"}} {
				end.node.Run("ip", "addr", "del", end.own+"/24", "dev", end.dev)
				end.node.Run("ip", "addr", "add", end.own, "peer", end.far+"/32", "dev", end.dev)
			}
			host.Run("ip", "route", "replace", "default", "nexthop", "via", "10.68.1.2", "dev", "en1", "nexthop", "via", "10.68.5.2", "dev", "en5")
			s := startSpeaker(t, l)
			s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
			waitLive(t, router, vip4, "10.68.1.1@e1", "10.68.5.1@e5")
			l.Unplug("host", "en5")
			waitLive(t, router, vip4, "10.68.1.1@e1")
			if got := source(t, host, "udp", client4.String()); got != vip4.Addr() {
				t.Errorf("the source is %v", got)
			}
		})
	}
}
