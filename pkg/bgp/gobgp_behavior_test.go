package bgp

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"

	"vipspeaker/test/stopwatch"
)

// These tests pin what this package relies on and GoBGP does not promise. When a
// new version fails one, the code that its comment names has to change.

// bare starts a GoBGP server without anything of this package but the log.
func bare(t *testing.T, local netip.Addr) *server.BgpServer {
	t.Helper()
	srv := server.NewBgpServer(server.LoggerOption(newLogAdapter(testLog(t), make(chan struct{}, 1))))
	go srv.Serve()
	err := srv.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{
		Asn: 65010, RouterId: local.String(), ListenPort: testPort, ListenAddresses: []string{local.String()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Stop() })
	return srv
}

func mustAdd(t *testing.T, srv *server.BgpServer, p Peer, local netip.Addr) {
	t.Helper()
	p.LocalAddress = local
	if err := srv.AddPeer(t.Context(), &api.AddPeerRequest{Peer: peerToAPI(p, GracefulRestart{}, false)}); err != nil {
		t.Fatal(err)
	}
}

func mustPath(t *testing.T, p Path) *api.Path {
	t.Helper()
	out, err := pathToAPI(p, 65010, 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func rib(t *testing.T, srv *server.BgpServer) map[pathKey]Path {
	t.Helper()
	out, err := listOwn(t.Context(), srv)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sessionState(t *testing.T, srv *server.BgpServer, a netip.Addr) SessionState {
	t.Helper()
	st := SessionState("absent")
	err := srv.ListPeer(t.Context(), &api.ListPeerRequest{Address: a.String()}, func(p *api.Peer) {
		st = stateFromAPI(p.GetState().GetSessionState())
	})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// setImport: without a statement that accepts local paths, an import policy
// that rejects by default swallows our own without an error.
func TestGoBGPImportPolicyHitsOwnPaths(t *testing.T) {
	srv := bare(t, addr(t))
	err := srv.SetPolicyAssignment(t.Context(), &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_IMPORT, DefaultAction: api.RouteAction_REJECT,
	}})
	if err != nil {
		t.Fatal(err)
	}
	add := &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: mustPath(t, path4(1))}
	if _, err := srv.AddPath(t.Context(), add); err != nil || len(rib(t, srv)) != 0 {
		t.Errorf("error %v, RIB %v; want none and empty", err, rib(t, srv))
	}
	if err := setImport(t.Context(), srv, false); err != nil {
		t.Fatal(err)
	}
	if _, err := srv.AddPath(t.Context(), add); err != nil || len(rib(t, srv)) != 1 {
		t.Errorf("error %v, RIB %v; want none and one path", err, rib(t, srv))
	}
}

// reconcilePaths: adding again replaces, attributes are read back as given, and
// deleting what is not there is no error.
func TestGoBGPPathsAreKeyedByPrefix(t *testing.T) {
	srv := bare(t, addr(t))
	med, pref := uint32(5), uint32(6)
	full := canonical(Path{
		Prefix: path4(1).Prefix, NextHop: netip.MustParseAddr("192.0.2.1"), MED: &med, LocalPref: &pref, Prepend: 3,
		Communities: []uint32{7, 8}, LargeCommunities: []LargeCommunity{{1, 2, 3}},
	})
	six := path6(1)
	six.NextHop = netip.MustParseAddr("fd00::1")
	mapped := path4(9)
	mapped.NextHop = netip.MustParseAddr("fd00::1")
	for _, p := range []Path{path4(1), full, path6(1), six, mapped} {
		if _, err := srv.AddPath(t.Context(), &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: mustPath(t, p)}); err != nil {
			t.Fatal(err)
		}
		if got := rib(t, srv)[p.key()]; !samePath(got, p) {
			t.Errorf("read back %+v, want %+v", got, p)
		}
	}
	if got := rib(t, srv); len(got) != 3 {
		t.Errorf("RIB is %v, want three paths", got)
	}
	for range 2 {
		for _, p := range []Path{path4(1), path6(1), path4(9)} {
			if err := srv.DeletePath(t.Context(), &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Path: mustPath(t, p)}); err != nil {
				t.Errorf("delete %s: %v", p.Prefix, err)
			}
		}
	}
	if got := rib(t, srv); len(got) != 0 {
		t.Errorf("RIB is %v, want nothing", got)
	}
}

// revive: a session that fell is left idle for 5 s, and connections of the peer
// are closed, while deleting and adding the peer makes it listen at once.
func TestGoBGPSulksAfterAFall(t *testing.T) {
	host, router := addr(t), addr(t)
	srv := bare(t, host)
	mustAdd(t, srv, peer(router, 65001), host)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	eventually(t, patience, func() string { return "established" }, func() bool { return sessionState(t, srv, router) == Established })
	fell := time.Now()
	_ = p.conn.Close()
	eventually(t, patience, func() string { return "idle" }, func() bool { return sessionState(t, srv, router) == Idle })
	<-time.After(1500 * time.Millisecond)
	st := sessionState(t, srv, router)
	_, err := tryRaw(t.Context(), t, router, host, 65001, rawOptions{})
	// A machine that stood still may have been too late to see it.
	if d := time.Since(fell); d < 5*time.Second && (st != Idle || err == nil) {
		t.Errorf("less than %s after the fall the session is %s, a connection has the error %v", d, st, err)
	}
	if err := srv.DeletePeer(t.Context(), &api.DeletePeerRequest{Address: router.String()}); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, srv, peer(router, 65001), host)
	watch := stopwatch.Start(t)
	dialRaw(t, router, host, 65001, rawOptions{})
	if d := watch.Elapsed(); d > 500*time.Millisecond {
		t.Errorf("session %s after the peer was added again", d)
	}
}

// observe: every state arrives as an event, in order, and the end of a peer that
// is deleted while established has a type of its own.
func TestGoBGPEvents(t *testing.T) {
	host, router := addr(t), addr(t)
	srv := bare(t, host)
	var mu sync.Mutex
	var got []string
	err := srv.WatchEvent(t.Context(), &api.WatchEventRequest{Peer: &api.WatchEventRequest_Peer{}}, func(r *api.WatchEventResponse) {
		mu.Lock()
		defer mu.Unlock()
		if st := r.GetPeer().GetPeer().GetState(); st.GetNeighborAddress() == router.String() {
			got = append(got, r.GetPeer().GetType().String()+" "+string(stateFromAPI(st.GetSessionState())))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	mustAdd(t, srv, peer(router, 65001), host)
	dialRaw(t, router, host, 65001, rawOptions{})
	eventually(t, patience, func() string { return "established" }, func() bool { return sessionState(t, srv, router) == Established })
	if err := srv.DeletePeer(t.Context(), &api.DeletePeerRequest{Address: router.String()}); err != nil {
		t.Fatal(err)
	}
	want := "STATE Idle, STATE Active, STATE OpenSent, STATE OpenConfirm, STATE Established, UNKNOWN Idle"
	text := func() string { mu.Lock(); defer mu.Unlock(); return strings.Join(got, ", ") }
	eventually(t, patience, func() string { return "events " + text() + ", want " + want }, func() bool { return text() == want })
}

// reconcilePeer: timers and the prefix limit change without a reset, other
// parameters with one.
func TestGoBGPUpdatePeer(t *testing.T) {
	host, router := addr(t), addr(t)
	srv := bare(t, host)
	p := peer(router, 65001)
	mustAdd(t, srv, p, host)
	raw := dialRaw(t, router, host, 65001, rawOptions{})
	eventually(t, patience, func() string { return "established" }, func() bool { return sessionState(t, srv, router) == Established })
	p.LocalAddress = host
	p.HoldTime, p.Keepalive, p.ConnectRetry, p.MaxPrefixes = 60*time.Second, 20*time.Second, 2*time.Second, 10
	update := func() {
		t.Helper()
		if _, err := srv.UpdatePeer(t.Context(), &api.UpdatePeerRequest{Peer: peerToAPI(p, GracefulRestart{}, false)}); err != nil {
			t.Fatal(err)
		}
	}
	update()
	if got := raw.quiet(100 * time.Millisecond); got != nil || raw.ended() != nil {
		t.Errorf("timers: router got %q, %v", got, raw.ended())
	}
	p.Password = "sesame"
	update()
	raw.await(patience, hasPrefix("notification 6/6"))
}

// awaitDown: the end of a session with a text leaves behind the UPDATEs that
// wait, and comes back as a state soon.
func TestGoBGPShutdownPeer(t *testing.T) {
	host, router := addr(t), addr(t)
	srv := bare(t, host)
	mustAdd(t, srv, peer(router, 65001), host)
	raw := dialRaw(t, router, host, 65001, rawOptions{})
	eventually(t, patience, func() string { return "established" }, func() bool { return sessionState(t, srv, router) == Established })
	for i := range 100 {
		if _, err := srv.AddPath(t.Context(), &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: mustPath(t, path4(i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := srv.ShutdownPeer(t.Context(), &api.ShutdownPeerRequest{Address: router.String(), Communication: "bye"}); err != nil {
		t.Fatal(err)
	}
	got := raw.await(patience, hasPrefix("notification"))
	if i := slices.Index(got, "notification 6/2 bye"); i != 100 {
		t.Errorf("notification at place %d of %d", i, len(got))
	}
	eventually(t, patience, func() string { return "idle" }, func() bool { return sessionState(t, srv, router) == Idle })
}

// start: a server that has no address to listen on starts as one that dials
// only, and one address that is missing makes it fail as a whole.
func TestGoBGPListenAddresses(t *testing.T) {
	for addresses, wantErr := range map[string]bool{"127.0.0.1": false, "127.0.0.1,192.0.2.254": true} {
		srv := server.NewBgpServer(server.LoggerOption(newLogAdapter(testLog(t), make(chan struct{}, 1))))
		go srv.Serve()
		err := srv.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{
			Asn: 65010, RouterId: "10.0.0.1", ListenPort: testPort, ListenAddresses: strings.Split(addresses, ","),
		}})
		if (err != nil) != wantErr {
			t.Errorf("%s: %v", addresses, err)
		}
		srv.Stop() // closes the listeners that were opened before the error, too
	}
}
