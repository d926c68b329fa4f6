package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// dropFamily loses every packet of one family on the link of the leg, ARP or
// neighbour discovery included, both ways, while the other family passes.
func dropFamily(l *lab.Lab, at leg, vip netip.Prefix) {
	types := "{ ip, arp }"
	if vip.Addr().Is6() {
		types = "ip6"
	}
	l.Node(at.node).Run("nft", fmt.Sprintf(`add table netdev lab_%[1]s
add chain netdev lab_%[1]s in { type filter hook ingress device %[1]s priority 0; meta protocol %[2]s drop; }
add chain netdev lab_%[1]s out { type filter hook egress device %[1]s priority 0; meta protocol %[2]s drop; }`, at.dev, types))
}

// A path loses the packets of one family only: that family leaves it, on both
// sides, and the other one stays on both paths.
func TestSilentFamily(t *testing.T) {
	t.Parallel()
	for _, with := range []string{withBFD, byProbe} {
		for i, vip := range []netip.Prefix{vip4, vip6} {
			t.Run(fmt.Sprintf("%s/%v", with, vip.Addr()), func(t *testing.T) {
				t.Parallel()
				// IPv4 fails on one path and IPv6 on the other.
				silentFamily(t, legs()[i], legs()[1-i], vip, with)
			})
		}
	}
}

// How TestSilentFamily sees the failure.
const (
	withBFD       = "with BFD"
	byProbe       = "by probe"
	byIPv4Gateway = "by probe, with an IPv4 gateway"
)

func silentFamily(t *testing.T, fails, stays leg, vip netip.Prefix, with string) {
	t.Helper()
	var l *lab.Lab
	var s *lab.Speaker
	if with == withBFD {
		l, s = bfdSample(t, usual, withBGP)
	} else {
		l = lab.Start(t, "vipa")
		s = startPaths(t, l, pathConfig{onlyIPv4Gateway: with == byIPv4Gateway})
		waitClientHasBoth(t, l)
	}
	untilCalm(t, usual.detection()/2, func() []string { return silentFamilyOnce(t, l, s, fails, stays, vip, with) })
}

// silentFamilyOnce lets a family fail and come back, and tells what was not as it
// should be.
func silentFamilyOnce(t *testing.T, l *lab.Lab, s *lab.Speaker, fails, stays leg, vip netip.Prefix, with string) (wrong []string) {
	t.Helper()
	host, dst, peer, otherVIP := l.Node("host"), client4, fails.peer4, vip6
	if vip.Addr().Is6() {
		dst, peer, otherVIP = client6, fails.peer6, vip4
	}
	waitEgress(t, host, 10*time.Second, "en1", "en5")
	other := append(watchRoutes(t, l, fails, otherVIP), watchRoutes(t, l, stays, otherVIP)...)
	failed := time.Now()
	dropFamily(l, fails, vip)
	lab.Eventually(t, 20*time.Second, fmt.Sprintf("%v leaves by %s alone", vip, stays.ifc), func() error {
		devs, err := egressOf(host, vip.Addr(), dst)
		return errors.Join(err, lab.That(slices.Equal(devs, []string{stays.ifc}), "it leaves by %v", devs))
	})
	took := time.Since(failed)
	t.Logf("%v has left %s after %s", vip, fails.ifc, millis(took))
	if took > attachmentLimit+time.Second {
		wrong = append(wrong, fmt.Sprintf("%v has left %s only after %v", vip, fails.ifc, took))
	}
	if with == withBFD {
		s.WaitStatus(10*time.Second, "the session has ended", func(st *status.Status) error {
			p := peerAt(st, peer)
			return lab.That(p.State == "Down", "%v is %s", peer, p.State)
		})
	}
	if n := interfaceAt(s.WaitStatus(10*time.Second, "a picture", func(*status.Status) error { return nil }), fails.ifc); !n.Usable {
		wrong = append(wrong, fmt.Sprintf("%s is not usable: %s", n.Name, n.Detail))
	}
	wrong = append(wrong, changedRoutes(other)...)
	l.PassFrames("host", fails.ifc)
	allBack(t, l, s)
	return wrong
}

// A path whose IPv4 gateway alone is configured: the IPv6 peer is probed beside
// it, so when either family dies there it leaves by the other path, and the
// interface with its other family stays.
func TestSilentFamilyOneGateway(t *testing.T) {
	t.Parallel()
	for i, vip := range []netip.Prefix{vip4, vip6} {
		t.Run(vip.Addr().String(), func(t *testing.T) {
			t.Parallel()
			silentFamily(t, legs()[i], legs()[1-i], vip, byIPv4Gateway)
		})
	}
}
