package bgp

import (
	"context"
	"fmt"
	"testing"
	"time"
)

func TestSpeakerAnnounces(t *testing.T) {
	host, router := addr(t), addr(t)
	s, r := startSpeaker(t, SpeakerOptions{}), startSpeaker(t, SpeakerOptions{AcceptPaths: true})
	apply(t, s, conf("en1", 65010, host))
	apply(t, r, conf("r1", 65001, router))

	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1), path4(2)}
	apply(t, s, cfg)
	apply(t, r, conf("r1", 65001, router, peer(host, 65010)))
	t.Logf("established after %s", awaitEstablished(t, s, router))
	eventually(t, 2*time.Second, func() string { return fmt.Sprint(r.Received()) },
		func() bool { return len(prefixes(r, host)) == 2 })
	for p, hop := range prefixes(r, host) {
		if hop != host {
			t.Errorf("%s has next hop %s, want %s", p, hop, host)
		}
	}

	cfg.Paths = cfg.Paths[:1]
	apply(t, s, cfg)
	eventually(t, 2*time.Second, func() string { return fmt.Sprint(r.Received()) },
		func() bool { return len(prefixes(r, host)) == 1 })

	cfg.Peers, cfg.DownReason = nil, "interface en1: link down"
	apply(t, s, cfg)
	eventually(t, 2*time.Second, func() string { return fmt.Sprintf("%+v", r.State()) }, func() bool {
		return peerState(r.State(), host).LastError == `received Cease/Administrative Shutdown: "interface en1: link down"`
	})
	if err := s.Close(context.Background(), StopDrain, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
}
