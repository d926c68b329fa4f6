package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"vipspeaker/test/stopwatch"
)

func hasPrefix(prefix string) func([]string) bool {
	return func(msgs []string) bool {
		return slices.ContainsFunc(msgs, func(m string) bool { return strings.HasPrefix(m, prefix) })
	}
}

func TestSpeakerAnnounces(t *testing.T) {
	host, router := addr(t), addr(t)
	s, r := startSpeaker(t, SpeakerOptions{}), startSpeaker(t, SpeakerOptions{AcceptPaths: true})
	apply(t, s, conf("en1", 65010, host))
	apply(t, r, conf("r1", 65001, router))

	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1), path4(2)}
	apply(t, s, cfg)
	apply(t, r, conf("r1", 65001, router, peer(host, 65010)))
	awaitEstablished(t, s, router)
	want := map[netip.Prefix]netip.Addr{path4(1).Prefix: host, path4(2).Prefix: host}
	eventually(t, patience, func() string { return fmt.Sprint(r.Received()) },
		func() bool {
			return cmp.Equal(prefixes(r, host), want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
		})

	cfg.Peers, cfg.DownReason = nil, "interface en1: link down"
	apply(t, s, cfg)
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", r.State()) }, func() bool {
		return peerState(r.State(), host).LastError == `received Cease/Administrative Shutdown: "interface en1: link down"` &&
			len(r.Received()) == 0
	})
	if err := s.Close(context.Background(), StopDrain, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
}

// A router that dials is served in well under a second.
func TestFirstSessionIsFast(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1)}
	watch := stopwatch.Start(t)
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	p.await(patience, hasPrefix("[+10.100.0.1/32]"))
	if d := watch.Elapsed(); d > time.Second {
		t.Errorf("first UPDATE after %s, want less than 1 s", d)
	} else {
		t.Logf("first UPDATE after %s", d)
	}
}

// Only what changed goes over the wire, and nothing twice.
func TestApplySendsTheDifferenceOnly(t *testing.T) {
	host, r1, r2 := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(r1, 65001), peer(r2, 65002))
	med := uint32(7)
	cfg.Paths = []Path{path4(1), {Prefix: path4(2).Prefix, Communities: []uint32{3, 1}, MED: &med}}
	apply(t, s, cfg)
	peers := []*rawPeer{dialRaw(t, r1, host, 65001, rawOptions{}), dialRaw(t, r2, host, 65002, rawOptions{})}
	for _, p := range peers {
		p.await(patience, func(m []string) bool { return hasPrefix("[+10.100.0.1")(m) && hasPrefix("[+10.100.0.2")(m) })
	}
	awaitEstablished(t, s, r1)
	since := peerState(s.State(), r1).Since
	expect := func(name string, want ...string) {
		t.Helper()
		apply(t, s, cfg)
		for _, p := range peers {
			if diff := cmp.Diff(want, p.gets(len(want), 100*time.Millisecond)); diff != "" {
				t.Errorf("%s: messages (-want +got):\n%s", name, diff)
			}
		}
	}
	expect("the same again")
	cfg.Paths[1].Communities = []uint32{1, 3}
	expect("the same in another order")
	cfg.Paths = append(cfg.Paths, path4(3))
	expect("one path more", "[+10.100.0.3/32] via "+host.String()+" [{AsPath: 65010}]")
	cfg.Paths[0].Communities = []uint32{65010<<16 | 100}
	expect("a community", "[+10.100.0.1/32] via "+host.String()+" [{AsPath: 65010} {Communities: 65010:100}]")
	cfg.Paths[0].Prepend, cfg.Paths[0].Communities = 2, nil
	expect("a prepend", "[+10.100.0.1/32] via "+host.String()+" [{AsPath: 65010 65010 65010}]")
	cfg.Paths = cfg.Paths[:1]
	apply(t, s, cfg)
	for _, p := range peers {
		got := p.gets(2, 100*time.Millisecond)
		slices.Sort(got)
		if diff := cmp.Diff([]string{"[-10.100.0.2/32]", "[-10.100.0.3/32]"}, got); diff != "" {
			t.Errorf("withdraws (-want +got):\n%s", diff)
		}
	}
	cfg.Peers[0].HoldTime, cfg.Peers[0].MaxPrefixes = 30*time.Second, 5
	expect("timers and prefix limit")
	cfg.Peers = cfg.Peers[:1]
	cfg.DownReason = "bye"
	apply(t, s, cfg)
	if diff := cmp.Diff([]string{"notification 6/2 bye"}, peers[1].gets(1, 50*time.Millisecond)); diff != "" {
		t.Errorf("removed peer (-want +got):\n%s", diff)
	}
	if got := peerState(s.State(), r1); got.Since != since || got.Transitions != 1 {
		t.Errorf("the other session flapped: %+v", got)
	}
}

// A session parameter replaces only the session that it belongs to.
func TestPeerParameterResetsItsSessionOnly(t *testing.T) {
	host, r1, r2 := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(r1, 65001), peer(r2, 65002))
	apply(t, s, cfg)
	dialRaw(t, r1, host, 65001, rawOptions{})
	p2 := dialRaw(t, r2, host, 65002, rawOptions{})
	awaitEstablished(t, s, r1)
	awaitEstablished(t, s, r2)
	cfg.Peers[1].ASN = 65003
	apply(t, s, cfg)
	p2.await(patience, hasPrefix("notification 6/4 configuration: remote AS changed"))
	dialRaw(t, r2, host, 65003, rawOptions{})
	awaitEstablished(t, s, r2)
	if got := peerState(s.State(), r1); got.State != Established || got.Transitions != 1 {
		t.Errorf("the other session flapped: %+v", got)
	}
	if got := peerState(s.State(), r2); got.Transitions != 3 || got.ASN != 65003 {
		t.Errorf("state is %+v, want three transitions", got)
	}
}

// A drain withdraws before it says goodbye, on both sessions.
func TestDrainOrder(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	p.await(patience, hasPrefix("[+"))
	if err := s.Close(context.Background(), StopDrain, "maintenance"); err != nil {
		t.Fatal(err)
	}
	got := p.await(patience, hasPrefix("notification"))
	if diff := cmp.Diff([]string{"[-10.100.0.1/32]", "notification 6/2 maintenance"}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// A session that fell is listened for again at once, not after GoBGP's 5 s.
func TestSessionComesBackAtOnce(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
	p := dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
	_ = p.conn.Close()
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State()) },
		func() bool { return peerState(s.State(), router).LastError == "connection closed by the peer" })
	watch := stopwatch.Start(t)
	dialRaw(t, router, host, 65001, rawOptions{})
	awaitEstablished(t, s, router)
	if d := watch.Elapsed(); d > time.Second {
		t.Errorf("back after %s, want less than 1 s", d)
	}
}

// A frozen router is dropped when the negotiated hold time is over.
func TestHoldTime(t *testing.T) {
	host, router := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	apply(t, s, conf("en1", 65010, host, peer(router, 65001)))
	p := dialRaw(t, router, host, 65001, rawOptions{hold: 3})
	awaitEstablished(t, s, router)
	// So that there is a last KEEPALIVE to count from.
	eventually(t, patience, func() string { return "a KEEPALIVE" }, p.keeps)
	watch := stopwatch.Start(t)
	last := p.setMute()
	p.await(patience, hasPrefix("notification 4/0"))
	if d := time.Since(last); d < 3*time.Second {
		t.Errorf("NOTIFICATION %s after the last KEEPALIVE", d)
	}
	if d := watch.Elapsed(); d > 4*time.Second {
		t.Errorf("NOTIFICATION after %s, want 3 s after the last KEEPALIVE", d)
	}
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State()) },
		func() bool { return strings.Contains(peerState(s.State(), router).LastError, "Hold Timer Expired") })
}

// A router that has our paths by another session sends them back, however many
// there are; and a limit that rises with them is no reason to end a session.
func TestPrefixLimitLeavesOutWhatIsReflected(t *testing.T) {
	host, r1 := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	limited := peer(r1, 65001)
	limited.MaxPrefixes = 100
	cfg := conf("en1", 65010, host, limited)
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	p1 := dialRaw(t, r1, host, 65001, rawOptions{})
	p1.await(patience, hasPrefix("[+"))
	cfg.Reflected = 3000
	apply(t, s, cfg)
	push(t, p1, r1, 65001, 0, 3099)
	if got := p1.quiet(300 * time.Millisecond); got != nil {
		t.Errorf("the router got %q", got)
	}
	push(t, p1, r1, 65001, 3099, 1)
	p1.await(patience, hasPrefix("notification 6/1"))
}

// A router that hears of new paths by another session sends them back while the
// speaker is still taking them in: the limit must have risen by then.
func TestPrefixLimitRisesBeforePathsGo(t *testing.T) {
	host, r1 := addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	limited := peer(r1, 65001)
	limited.MaxPrefixes = 100
	cfg := conf("en1", 65010, host, limited)
	apply(t, s, cfg)
	p1 := dialRaw(t, r1, host, 65001, rawOptions{})
	awaitEstablished(t, s, r1)
	srv := s.server.Load()
	const paths = 10000
	var want []Path
	for i := range paths {
		want = append(want, path4(i))
	}
	cfg.Paths, cfg.Reflected = want, paths
	done := make(chan error, 1)
	go func() { done <- s.Apply(t.Context(), cfg) }()
	eventually(t, patience, func() string { return "no path taken in" }, func() bool {
		own, err := listOwn(t.Context(), srv)
		return err == nil && len(own) > 0
	})
	if len(done) > 0 {
		t.Fatal("all paths were in before the router could answer: the test shows nothing")
	}
	push(t, p1, r1, 65001, 0, paths)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p1.await(patience, hasPrefix("[+"))
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State()) },
		func() bool { return peerState(s.State(), r1).Received >= paths })
	if got := peerState(s.State(), r1); got.Transitions != 1 {
		t.Errorf("the session flapped: %+v", got)
	}
}

// A router that sends more than allowed gets Cease 6/1, changes nothing and is
// asked again after a pause; nothing of it reaches another peer.
func TestPrefixLimitAndNoTransit(t *testing.T) {
	host, r1, r2 := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{})
	s.timing.limitRetry = 300 * time.Millisecond
	limited := peer(r1, 65001)
	limited.MaxPrefixes = 100
	cfg := conf("en1", 65010, host, limited, peer(r2, 65002))
	cfg.Paths = []Path{path4(1)}
	apply(t, s, cfg)
	p1, p2 := dialRaw(t, r1, host, 65001, rawOptions{}), dialRaw(t, r2, host, 65002, rawOptions{})
	p1.await(patience, hasPrefix("[+"))
	p2.await(patience, hasPrefix("[+"))
	push(t, p2, r2, 65002, 0, 50) // not limited: taken in and refused
	push(t, p1, r1, 65001, 0, 10000)
	p1.await(patience, hasPrefix("notification 6/1"))
	eventually(t, patience, func() string { return fmt.Sprintf("%+v", s.State()) }, func() bool {
		return peerState(s.State(), r1).LastError == "sent Cease/Maximum Number of Prefixes Reached" &&
			peerState(s.State(), r2).Received == 51
	})
	if got := p2.quiet(100 * time.Millisecond); got != nil {
		t.Errorf("the other router got %q", got)
	}
	if diff := cmp.Diff([]netip.Prefix{path4(1).Prefix}, s.State().Announced, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
	dialRaw(t, r1, host, 65001, rawOptions{})
	awaitEstablished(t, s, r1)
	if got := peerState(s.State(), r2); got.Transitions != 1 {
		t.Errorf("the other session flapped: %+v", got)
	}
}

// push sends n routes, a default route and our own VIP.
func push(t *testing.T, p *rawPeer, hop netip.Addr, asn uint32, first, n int) {
	t.Helper()
	attrs := []bgp.PathAttributeInterface{
		bgp.NewPathAttributeOrigin(0),
		bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{asn})}),
		bgp.NewPathAttributeNextHop(hop.String()),
	}
	own := path4(1).Prefix.Addr().String()
	nlri := []*bgp.IPAddrPrefix{bgp.NewIPAddrPrefix(32, own)}
	for i := first; i < first+n; i++ {
		nlri = append(nlri, bgp.NewIPAddrPrefix(24, fmt.Sprintf("20.%d.%d.0", i>>8, i&255)))
	}
	for chunk := range slices.Chunk(nlri, 500) {
		if err := p.write(bgp.NewBGPUpdateMessage(nil, attrs, chunk)); err != nil {
			t.Logf("push: %v", err)
			return
		}
	}
}

// What a speaker takes in it reports, and sends to nobody.
func TestAcceptedPathsDoNotTravel(t *testing.T) {
	host, r1, r2 := addr(t), addr(t), addr(t)
	s := startSpeaker(t, SpeakerOptions{AcceptPaths: true})
	apply(t, s, conf("r", 65010, host, peer(r1, 65001), peer(r2, 65002)))
	p1, p2 := dialRaw(t, r1, host, 65001, rawOptions{}), dialRaw(t, r2, host, 65002, rawOptions{})
	push(t, p1, r1, 65001, 0, 20)
	push(t, p2, r2, 65002, 10, 20)
	eventually(t, patience, func() string { return fmt.Sprint(s.Received()) },
		func() bool { return len(prefixes(s, r1)) == 21 && len(prefixes(s, r2)) == 21 })
	for _, p := range []*rawPeer{p1, p2} {
		// GoBGP withdraws what both have sent, although it announced it to none.
		if got := p.quiet(100 * time.Millisecond); strings.Contains(fmt.Sprint(got), "+") {
			t.Errorf("a router got %q", got)
		}
	}
	if got := s.State().Announced; got != nil {
		t.Errorf("announced %v", got)
	}
}

func TestBackoff(t *testing.T) {
	var got []time.Duration
	for n := range 8 {
		got = append(got, backoff(n, 30*time.Second, 10*time.Minute))
	}
	want := []time.Duration{0, 30e9, 60e9, 120e9, 240e9, 480e9, 600e9, 600e9}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pauses (-want +got):\n%s", diff)
	}
}
