//go:build long

package topologies

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/etcdtest"
	"vipspeaker/test/topologies/lab"
)

// hold is what etcd has of a host that may announce a VIP.
type hold struct {
	Role string `json:"role"`
	To   string `json:"to"`
}

// interruption is what happens in the middle of a handover, to whom, and when.
type interruption struct {
	fault  string
	victim string // former, next or etcd
	when   string
}

// stages are the moments of a handover, as etcd sees them.
var stages = map[string]func(from, to hold) bool{
	"ordered":    func(from, _ hold) bool { return from.To != "" },
	"joined":     func(_, to hold) bool { return to.Role == "next" },
	"taken over": func(from, _ hold) bool { return from.Role == "former" },
}

// interruptions are all that the test knows.
func interruptions() (all []interruption) {
	for _, when := range slices.Sorted(maps.Keys(stages)) {
		for _, fault := range []string{"death", "partition from etcd", "partition from the router"} {
			all = append(all, interruption{fault, "former", when}, interruption{fault, "next", when})
		}
		all = append(all, interruption{"death of etcd", "etcd", when}, interruption{"pause of etcd", "etcd", when})
	}
	return all
}

// moved is a pair of hosts whose handovers are interrupted.
type moved struct {
	*faulty
	etcdKeys *etcdtest.Reader
	epoch    int64
}

// holds are those of the VIP that is moved, by host.
func (m *moved) holds(vip string) (map[string]hold, error) {
	const prefix = "/vipspeaker/vips/"
	keys, err := m.etcdKeys.Read(prefix+strings.ReplaceAll(vip, "/", "_")+"/hold/", 100*time.Millisecond)
	if err != nil {
		return nil, err
	}
	all := map[string]hold{}
	for host, text := range keys {
		var h hold
		if err = json.Unmarshal([]byte(text), &h); err != nil {
			return nil, err
		}
		all[host] = h
	}
	return all, nil
}

const movedVIP = "10.68.6.1/32"

// TestLongMoveFaults: a handover in whose middle either host or etcd dies or is cut off
// leaves one owner, and never had two but those that have handed over to each other.
// VIPSPEAKER_FAULTS says how many there are, VIPSPEAKER_SEED which come first.
func TestLongMoveFaults(t *testing.T) {
	faults, seed := int(number(t, "VIPSPEAKER_FAULTS", 4)), number(t, "VIPSPEAKER_SEED", uint64(time.Now().Unix()))
	t.Logf("seed %d", seed)
	all := interruptions()
	rand.New(rand.NewPCG(seed, faultLabs)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	program := binary(t)
	for i := range faultLabs {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			f := startFaulty(t, program, rand.New(rand.NewPCG(seed, uint64(i))))
			m := &moved{faulty: f, etcdKeys: etcdtest.NewReader(t, etcdAddress+":2379", func(ctx context.Context, address string) (net.Conn, error) {
				return f.l.Node("etcd").Dial(ctx, "tcp", netip.AddrPort{}, netip.MustParseAddrPort(address))
			})}
			// While etcd is out of reach nobody can say that a hold is given up.
			f.both = func(vip string) bool {
				holds, err := m.holds(vip)
				return err != nil || len(holds) == 2
			}
			stop := f.watch()
			defer stop()
			for n := i; n < faults && !t.Failed(); n += faultLabs {
				// The moment is short, and the test may look too late.
				tries := 0
				for !m.interrupt(all[n%len(all)]) {
					if tries++; tries == maxVoid {
						t.Fatalf("in none of %d handovers the moment was seen: %+v", tries, all[n%len(all)])
					}
				}
			}
		})
	}
}

// interrupt orders a handover and hurts somebody in its middle, if it sees that.
func (m *moved) interrupt(what interruption) (seen bool) {
	m.t.Helper()
	from, to := "a", "b"
	if had, err := m.claims("b"); err == nil && slices.Contains(had, movedVIP) {
		from, to = to, from
	}
	victim := map[string]string{"former": from, "next": to, "etcd": from}[what.victim]
	ordered := make(chan error, 1)
	orderer := m.hosts[from]
	if victim == from {
		orderer = m.hosts[to]
	}
	go func() {
		_, err := orderer.Command("move", "vipa", "--to", to, "--wait", "0s")
		ordered <- err
	}()
	var at hold
	lab.Eventually(m.t, 30*time.Second, what.when, func() error {
		select {
		case err := <-ordered:
			ordered <- err
			if err != nil { // its host or the other one is not ready just now
				return nil
			}
		default:
		}
		holds, err := m.holds(movedVIP)
		if err != nil {
			return err
		}
		at = holds[from]
		seen = stages[what.when](holds[from], holds[to])
		over := len(holds) == 1 && holds[to] == hold{Role: "owner"}
		return lab.That(seen || over, "holds %v", holds)
	})
	if !seen {
		m.t.Logf("%+v: the handover was refused, or over before that was seen: %v", what, <-ordered)
		m.whole(wholeBound)
		m.agreed()
		return false
	}
	kind := slices.IndexFunc(faultKinds, func(k faultKind) bool { return k.name == what.fault })
	_, heal := m.fault(victim, kind)
	begin := time.Now()
	faulted := begin
	if faultKinds[kind].hopeless {
		<-time.After(time.Duration(m.r.IntN(int(lease * 3 / 2)))) // the fault lasts
		heal()
		begin = time.Now()
		m.mu.Lock()
		m.possible = true
		m.mu.Unlock()
	}
	m.one(fmt.Sprintf("%+v", what))
	took := time.Since(begin)
	if !faultKinds[kind].hopeless {
		heal()
	}
	m.whole(wholeBound)
	owner := m.agreed() // it may be another one: leases can have ended since
	err := <-ordered
	m.mu.Lock()
	defer m.mu.Unlock()
	m.t.Logf("%s of %s once %s: %s is the owner after %s, longest without one %s, all is well after %s; the order: %v",
		what.fault, what.victim, what.when, map[string]string{from: "former", to: "next"}[owner], took, m.gap[movedVIP], time.Since(begin), err)
	if within := lease + time.Second + slack; took > within || m.gap[movedVIP] > within {
		m.until[movedVIP] = begin.Add(took)
		m.judge(faulted, fmt.Sprintf("it took longer than %s (hold at the fault: %+v)", within, at))
	}
	clear(m.gap)
	clear(m.until)
	return true
}

// one waits until one host owns the VIP, and nobody is about to take it over, in etcd
// and in the routers' tables.
func (m *moved) one(what string) (owner string) {
	m.t.Helper()
	lab.Eventually(m.t, 60*time.Second, "one owner after "+what, func() error {
		holds, err := m.holds(movedVIP)
		if err != nil {
			return err
		}
		var claims []string
		for _, host := range []string{"a", "b"} {
			had, err := m.claims(host)
			if err != nil {
				return err
			}
			if slices.Contains(had, movedVIP) {
				claims = append(claims, host)
			}
		}
		if len(claims) != 1 || len(holds) != 1 || holds[claims[0]] != (hold{Role: "owner"}) {
			return lab.That(false, "holds %v, in the tables of %v", holds, claims)
		}
		owner = claims[0]
		return nil
	})
	return owner
}

// agreed waits until both hosts say the same about who owns the VIP, as etcd and the
// routers do.
func (m *moved) agreed() (owner string) {
	m.t.Helper()
	lab.Eventually(m.t, wholeBound, "both hosts know who owns it alone", func() error {
		owner = m.one("all is well")
		epoch := m.epoch
		for name, s := range m.hosts {
			st, err := s.Status()
			if err != nil {
				return err
			}
			v, is := &st.VIPs[0], name == owner
			r := v.Role
			if r == nil || r.Owner != owner || r.Next != "" || r.Former != "" || r.Behind || len(v.Duplicates()) > 0 ||
				r.Owns != is || r.Held != is || v.Announced != is || v.Bound != is || (v.Reason == status.NotOwner) == is || r.Epoch < m.epoch {
				return fmt.Errorf("%s is the owner, and %s says: announced %t, bound %t, reason %s, role %+v", owner, name, v.Announced, v.Bound, v.Reason, r)
			}
			epoch = max(epoch, r.Epoch)
		}
		m.epoch = epoch
		return nil
	})
	return owner
}
