package bgp

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// startManager runs a manager until the test ends.
func startManager(t *testing.T, o Options, change func(*managerTiming)) *Manager {
	t.Helper()
	o.Log, o.Command = testLog(t), testCommand
	m := NewManager(o)
	if change != nil {
		change(&m.timing)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return m
}

func speakerState(m *Manager, name string) SpeakerState {
	st, _ := m.State().Speaker(name)
	return st
}

func awaitUp(t *testing.T, m *Manager, name string, peers int) time.Duration {
	t.Helper()
	return eventually(t, 15*time.Second, func() string { return fmt.Sprintf("%d sessions of %s: %+v", peers, name, m.State()) },
		func() bool { return upSessions(m, name) == peers })
}

func upSessions(m *Manager, name string) int {
	n := 0
	for _, p := range speakerState(m, name).Peers {
		if p.State == Established {
			n++
		}
	}
	return n
}

func TestManagerAnnounces(t *testing.T) {
	host, router := addr(t), addr(t)
	r := startSpeaker(t, SpeakerOptions{AcceptPaths: true})
	apply(t, r, conf("r1", 65001, router, peer(host, 65010)))
	m := startManager(t, Options{}, nil)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1), path4(2)}
	m.Announce(Desired{Speakers: []SpeakerConfig{cfg}})
	t.Logf("established after %s", awaitUp(t, m, "en1", 1))
	eventually(t, 2*time.Second, func() string { return fmt.Sprint(r.Received()) },
		func() bool { return len(prefixes(r, host)) == 2 })
	t.Logf("%+v", m.State())
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	start := time.Now()
	if err := m.Stop(ctx, StopDrain, "maintenance"); err != nil {
		t.Error(err)
	}
	t.Logf("stopped after %s: %+v", time.Since(start), m.State())
	eventually(t, time.Second, func() string { return fmt.Sprintf("%+v", r.State()) },
		func() bool {
			return peerState(r.State(), host).LastError == `received Cease/Administrative Shutdown: "maintenance"`
		})
}
