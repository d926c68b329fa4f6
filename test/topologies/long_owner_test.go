//go:build long

package topologies

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vipspeaker/test/topologies/lab"
)

// number is the value of a variable of the environment, or what holds without it.
func number(t *testing.T, name string, without uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return without
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// claims are the hosts whose path for the VIP is in the table of their router.
func (m *mobility) claims() (hosts []string, err error) {
	out, err := m.l.Node("r1").Try("vtysh", "-c", "show bgp ipv4 unicast neighbors 10.68.1.1 routes json")
	if err != nil {
		return nil, err
	}
	if strings.Contains(out, "10.68.6.1/32") {
		hosts = append(hosts, "a")
	}
	if out, err = m.l.Node("r2").Try("birdc", "-s", "/run/bird/bird.ctl", "show route protocol b"); err != nil {
		return nil, err
	}
	if strings.Contains(out, "10.68.6.1/32") {
		hosts = append(hosts, "b")
	}
	return hosts, nil
}

// TestLongOwnerFaults: whatever happens to hosts, etcd and the ways between them,
// never two owners are in the routers' tables, and one is when one can be.
// VIPSPEAKER_FAULTS says how many faults there are, VIPSPEAKER_SEED which.
func TestLongOwnerFaults(t *testing.T) {
	faults, seed := number(t, "VIPSPEAKER_FAULTS", 8), number(t, "VIPSPEAKER_SEED", uint64(time.Now().Unix()))
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m := startMobility(t)
	m.owned()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			began := time.Now()
			hosts, err := m.claims()
			// Two tables are read one after the other; a look that took long is none.
			if err == nil && len(hosts) > 1 && time.Since(began) < 150*time.Millisecond {
				if again, err := m.claims(); err == nil && len(again) > 1 {
					t.Errorf("in the routers' tables at once: %v", hosts)
				}
			}
		}
	})
	for i := range faults {
		name := []string{"a", "b"}[r.IntN(2)]
		what, heal := m.fault(name, r.IntN(4))
		t.Logf("fault %d: %s of %s", i, what, name)
		<-time.After(time.Duration(r.IntN(int(2 * lease)))) // the fault lasts
		heal()
		lab.Eventually(t, 40*time.Second, "one host owns it", func() error {
			hosts, err := m.claims()
			if err != nil {
				return err
			}
			return lab.That(len(hosts) == 1, "in the tables: %v", hosts)
		})
	}
	close(stop)
	wg.Wait()
}

// fault does something to a host and returns what undoes it. The speaker processes
// are not stopped: then the routers' hold time is what remains, which is longer
// than the lease here.
func (m *mobility) fault(name string, kind int) (what string, heal func()) {
	s, n := m.hosts[name], m.l.Node(name)
	switch kind {
	case 0:
		s.Kill()
		return "death", func() { m.hosts[name] = lab.StartSpeaker(n, binary(m.t)) }
	case 1:
		s.Signal(syscall.SIGSTOP)
		return "pause of the daemon", func() { s.Signal(syscall.SIGCONT) }
	case 2:
		m.l.DropFrames(name, "mg")
		return "partition from etcd", func() { m.l.PassFrames(name, "mg") }
	default:
		m.l.DropFrames(name, "en1")
		return "partition from the router", func() { m.l.PassFrames(name, "en1") }
	}
}
