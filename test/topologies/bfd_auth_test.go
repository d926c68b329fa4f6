package topologies

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// bfdKeyPath is where the host has the key of its BFD sessions.
const bfdKeyPath = "/etc/vipspeaker/bfd.key"

// writeBFDKey gives the host a key.
func writeBFDKey(host *lab.Node, key string) {
	host.WriteFile(bfdKeyPath, key+"\n")
	host.Run("chmod", "600", bfdKeyPath)
}

// birdKey is a key of BIRD's BFD sessions.
type birdKey struct {
	id  int
	key string
}

// birdKeys has BIRD authenticate its BFD sessions, with the first of the keys what
// it sends, or not without any.
func birdKeys(t *testing.T, bird *lab.Node, keys ...birdKey) {
	t.Helper()
	const path, from, to = "/etc/bird/bird.conf", "interface \"*\" {", "min rx interval"
	head, rest, ok := strings.Cut(bird.Run("cat", path), from)
	_, tail, more := strings.Cut(rest, to)
	if !ok || !more {
		t.Fatalf("bird: no BFD in %s", path)
	}
	auth := " "
	if len(keys) > 0 {
		auth += "authentication meticulous keyed sha1; "
	}
	for _, k := range keys {
		auth += fmt.Sprintf("password %q { id %d; }; ", k.key, k.id)
	}
	bird.WriteFile(path, head+from+auth+to+tail)
	if out := bird.BIRDC("configure"); !strings.Contains(out, "Reconfig") {
		t.Fatalf("bird: %s", out)
	}
}

// authConfig is the host's configuration with the key of that number for the peers
// of a leg, without authentication if it is 0.
func authConfig(at leg, id int) string {
	peers := map[netip.Addr]string{}
	for _, p := range at.peers() {
		peers[p] = "bfd: " + lasting.host()
		if id != 0 {
			peers[p] = "bfd: " + lasting.host(fmt.Sprintf("auth: {type: meticulous_keyed_sha1, key_id: %d, key_file: %s}", id, bfdKeyPath))
		}
	}
	return pathConfig{peers: peers}.String()
}

// BFD with authentication, from the file with the key to the router: with another
// key the status says what is wrong, and a reload with the right one brings the
// sessions up.
func TestBFDAuth(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, at := l.Node("host"), legs()[1]
	bird := l.Node(at.node)
	speakBFD(t, bird, lasting, withBGP, at.local4, at.local6)
	birdKeys(t, bird, birdKey{7, "the right key"})
	writeBFDKey(host, "another key")
	host.WriteFile(lab.ConfigPath, authConfig(at, 7))
	s := lab.StartSpeaker(host, binary(t))
	const dropped = "wrong authentication key"
	s.WaitStatus(20*time.Second, "packets are dropped", func(st *status.Status) error {
		for _, p := range at.peers() {
			if b := peerAt(st, p).BFD; b == nil || b.State == "Up" || b.LastDrop != dropped {
				return fmt.Errorf("peer %v: %+v", p, b)
			}
		}
		return nil
	})
	if text, err := s.Command("status"); err != nil || !strings.Contains(text, "packets dropped: "+dropped) {
		t.Errorf("status does not say %q: %v\n%s", "packets dropped: "+dropped, err, text)
	}

	writeBFDKey(host, "the right key")
	if out, err := s.Command("reload"); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
	st := s.WaitStatus(20*time.Second, "BFD is up", func(st *status.Status) error {
		for _, p := range at.peers() {
			if b := peerAt(st, p).BFD; b == nil || b.State != "Up" || b.RemoteState != "Up" {
				return fmt.Errorf("peer %v: %+v", p, b)
			}
		}
		return nil
	})
	s.WaitStatus(20*time.Second, "all is announced", lab.Established)
	if all := fmt.Sprintf("%+v", st) + s.Log(); strings.Contains(all, "the right key") || strings.Contains(all, "another key") {
		t.Error("a key is shown")
	}
}

// keyring is a host and a router with BFD between them, whose keys change.
type keyring struct {
	t          *testing.T
	host, bird *lab.Node
	at         leg
	s          *lab.Speaker
}

// told gives the host a key, or none, by a reload.
func (k *keyring) told(id int, key string) {
	k.t.Helper()
	writeBFDKey(k.host, key)
	k.host.WriteFile(lab.ConfigPath, authConfig(k.at, id))
	if out, err := k.s.Command("reload"); err != nil {
		k.t.Fatalf("reload: %v\n%s", err, out)
	}
}

// waits waits until BFD is up on the router's leg, with what it was told or still
// with what was before.
func (k *keyring) waits(what string, rotating bool) *status.Status {
	k.t.Helper()
	return k.s.WaitStatus(20*time.Second, what, func(st *status.Status) error {
		for _, p := range k.at.peers() {
			if b := peerAt(st, p).BFD; b == nil || b.State != "Up" || b.RemoteState != "Up" || b.Rotating != rotating {
				return fmt.Errorf("peer %v: %+v", p, b)
			}
		}
		return nil
	})
}

// The key changes by a reload of either end. The host that is told first waits for
// the router, so neither BFD nor BGP goes down, whatever changes; a router with two
// keys may be first. A router that has only the new one before the host knows it
// costs both sessions, until the host does.
func TestBFDKeyRotation(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	k := &keyring{t: t, host: l.Node("host"), at: legs()[1]}
	k.bird = l.Node(k.at.node)
	speakBFD(t, k.bird, lasting, withBGP, k.at.local4, k.at.local6)
	writeBFDKey(k.host, "unused")
	k.host.WriteFile(lab.ConfigPath, authConfig(k.at, 0))
	k.s = startSpeaker(t, l)
	before := k.waits("BFD is up without authentication", false)
	watches := watchRoutes(t, l, k.at, vip4, vip6)
	began := time.Now()

	one, two, three := birdKey{1, "key one"}, birdKey{2, "key two"}, birdKey{3, "key three"}
	for _, step := range []struct {
		name string
		id   int
		keys []birdKey // of the router, then; nil for those that it has
	}{
		{"none to a key", one.id, []birdKey{one}},
		{"another key", two.id, []birdKey{two}},
		{"a key to none", 0, []birdKey{}},
		{"none to a key again", two.id, []birdKey{two}},
	} {
		key := map[int]string{0: "unused", 1: one.key, 2: two.key}[step.id]
		k.told(step.id, key)
		k.waits(step.name+": the host waits for the router", true)
		text, err := k.s.Command("status")
		if err != nil || strings.Count(text, "the router still uses the former authentication") != 2 {
			t.Errorf("%s: status does not say that it waits: %v\n%s", step.name, err, text)
		}
		birdKeys(t, k.bird, step.keys...)
		k.waits(step.name+": both have it", false)
	}
	// The router first, with both keys, of which it sends the former.
	birdKeys(t, k.bird, two, three)
	k.told(three.id, three.key)
	k.waits("the router sends the former of two keys", true)
	birdKeys(t, k.bird, three)
	after := k.waits("both have the third key", false)
	untouched(t, before, after, k.at.ifc)
	unchanged(t, watches)
	for _, p := range k.at.peers() {
		if was, is := peerAt(before, p).BFD, peerAt(after, p).BFD; !is.Since.Equal(was.Since) || is.Downs != 0 {
			t.Errorf("BFD with %v: %+v, before %+v", p, is, was)
		}
		hasEvent(t, k.s, began, "bfd", "bfd keeps its former authentication", p.String(), "the router still uses it")
		hasEvent(t, k.s, began, "bfd", "bfd has its new authentication", p.String(), "")
	}

	// The router alone.
	changed := time.Now()
	birdKeys(t, k.bird, one)
	st := k.s.WaitStatus(20*time.Second, "BFD and BGP are down", func(st *status.Status) error {
		for _, p := range k.at.peers() {
			if b := peerAt(st, p); b.State != "Down" || b.BFD.State == "Up" || b.BFD.LastDrop != "other authentication key ID" {
				return fmt.Errorf("peer %v is %s: %+v", p, b.State, b.BFD)
			}
		}
		return nil
	})
	for _, p := range k.at.peers() {
		b := peerAt(st, p).BFD
		t.Logf("the router has another key: BFD with %v down after %s: %s", p, millis(b.Since.Sub(changed)), b.Diagnostic)
		hasEvent(t, k.s, changed, "bfd", "bfd down", p.String(), "packets are dropped: other authentication key ID")
		// By BFD, or by the Cease of the router, whose BFD ends at the same time.
		hasEvent(t, k.s, changed, "peer", "peer down", p.String(), "")
	}
	told := time.Now()
	k.told(one.id, one.key)
	k.waits("the host has it, too", false)
	t.Logf("BFD is up %s after the host's reload", millis(time.Since(told)))
	k.s.WaitStatus(20*time.Second, "all is announced", lab.Established)
	t.Logf("all is announced %s after the host's reload", millis(time.Since(told)))
	if all := k.s.Log(); strings.Contains(all, one.key) || strings.Contains(all, three.key) {
		t.Error("a key is shown")
	}
}
