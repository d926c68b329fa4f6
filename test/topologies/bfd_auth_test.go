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

// BFD with authentication, from the file with the key to the router: with another
// key the status says what is wrong, and a reload with the right one brings the
// sessions up.
func TestBFDAuth(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host, at := l.Node("host"), legs()[1]
	bird := l.Node(at.node)
	speakBFD(t, bird, usual, withBGP, at.local4, at.local6)
	const path = "/etc/bird/bird.conf"
	bird.WriteFile(path, strings.Replace(bird.Run("cat", path), "idle tx interval",
		`authentication meticulous keyed sha1; password "the right key" { id 7; }; idle tx interval`, 1))
	if out := bird.BIRDC("configure"); !strings.Contains(out, "Reconfig") {
		t.Fatalf("bird: %s", out)
	}
	peers := map[netip.Addr]string{}
	for _, p := range at.peers() {
		peers[p] = "bfd: " + usual.host(fmt.Sprintf("auth: {type: meticulous_keyed_sha1, key_id: 7, key_file: %s}", bfdKeyPath))
	}
	writeBFDKey(host, "another key")
	host.WriteFile(lab.ConfigPath, pathConfig{peers: peers}.String())
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
