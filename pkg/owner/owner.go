// Package owner sees to it that a service which must run once has exactly one
// owner among several hosts, by leases of etcd.
//
// Its caller says for which VIPs this host is ready; the Manager says which of
// them it holds, and until when that is certain without another word from etcd.
// It never announces or withdraws anything: whoever does must look at the time at
// the moment of each decision.
//
// # Why there are never two
//
// A host that announces a VIP has a hold on it: a key that is attached to the
// host's lease. A VIP without an owner is taken by a transaction that demands
// that there is no hold at all. So two hosts have holds only by a handover, in
// which the one asks the other on purpose.
//
// A lease ends at the earliest one TTL after etcd handled the last renewal, and
// etcd handled that after it was sent. So the host counts from the moment before
// it sent it, on a clock that is never set and also runs while the machine
// sleeps (CLOCK_BOOTTIME), and stops a margin before the end.
package owner

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Config says where etcd is.
type Config struct {
	// Endpoints are URLs or host:port, at least one.
	Endpoints []string
	// Username is empty for none.
	Username, Password string
	// TLS is nil for none.
	TLS *tls.Config
	// Prefix is that of all keys; it ends with a slash.
	Prefix string
	// Lease is the time to live of the lease, at least 2 s, in whole seconds.
	Lease time.Duration
	// Handover is how long a host that has handed a VIP over goes on announcing it, for
	// routers to move over.
	Handover time.Duration
}

// Options are what a Manager needs.
type Options struct {
	Log *slog.Logger
	// Poke is called after State changed. It must not block.
	Poke   func()
	Config Config
	// Host is the name of this host, unique among all that share the prefix;
	// without slashes. Of two machines with one name, one takes part.
	Host string
	// Instance is what tells them apart. No two that run may have the same; that of a
	// daemon is that of the next one which can only run once it has ended.
	Instance string
	// Machine is what the machine is called by those who look for it.
	Machine string
}

// Want is what the caller says about one VIP.
type Want struct {
	VIP netip.Prefix
	// Rank is 1 to 254, the lowest is preferred; 255 for none.
	Rank int
	// Failback tells that the VIP is to come back to this host by itself while a
	// host of a higher rank owns it.
	Failback bool
	// ID is the router id by which others know this host's paths.
	ID netip.Addr
	// Ready tells that the host could announce the VIP if it owned it.
	Ready bool
	// Leaving tells that it is to go: the host does not ask for it, and as its owner
	// hands it over to any other that does.
	Leaving bool
	// Announced tells that an established session carries it.
	Announced bool
	// Carried tells that a router may still have it from this host. While that is
	// so, a hold is not given up.
	Carried bool
}

// Role is what a host is for a VIP.
type Role string

// The roles.
const (
	None   Role = ""
	Owner  Role = "owner"  // announces it
	Next   Role = "next"   // announces it, too, and becomes the owner once routers have it
	Former Role = "former" // was the owner until Next became it, and announces it until routers have moved
)

// Ceased is why a host is not the owner of a VIP any more.
type Ceased string

// The reasons.
const (
	HandedOver Ceased = "handed_over" // to another host
	GivenUp    Ceased = "given_up"    // it could not announce the VIP any more, or was not to
	LeaseEnded Ceased = "lease_ended" // it was not renewed in time, or another machine took the host's name
	HoldGone   Ceased = "hold_gone"   // somebody else removed its hold from etcd
)

// State is an immutable picture. Its one writer is Manager.
type State struct {
	// Until is when this host's holds end, on the clock of Now, unless they are
	// renewed; zero if it has no lease. After it, Role counts for nothing.
	Until time.Duration
	// Error is why etcd could not be asked the last time, empty if it could.
	Error string
	// Refused is why this host takes no part, in words: another machine has its name.
	// Empty if it does.
	Refused string
	VIPs    map[netip.Prefix]VIPState
}

// VIPState is what is known of one VIP.
type VIPState struct {
	// Role is that of this host.
	Role Role
	// Ceased is why this host is not the owner any more; empty while it is, and if it
	// never was.
	Ceased Ceased
	// Owner is the name of the host that owns the VIP, empty for nobody, ID its
	// router id; Next is the host that it is being handed over to.
	Owner string
	ID    netip.Addr
	Next  string
	// Joined tells that Next may announce it already: the owner is then to make way.
	Joined bool
	// Former is the host that owned it before and may still announce it.
	Former string
	// Epoch grows with every change of the owner: it is the revision of etcd at
	// which it became that.
	Epoch int64
	// Revision is that of etcd at which its owner, or what that is asked to do, changed
	// last; 0 without an owner. See Manager.Move.
	Revision int64
	// Ready are the hosts that could announce it, the preferred one first.
	Ready []string
}

// Holds tells whether this host may announce a VIP at a time of Now.
func (s *State) Holds(vip netip.Prefix, now time.Duration) bool {
	if s == nil || now >= s.Until {
		return false
	}
	return s.VIPs[vip].Role != None
}

// Now is the time on CLOCK_BOOTTIME: since the start of the machine, whatever is
// done to the wall clock, and counting the time that it was suspended.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("owner: read CLOCK_BOOTTIME: %v", err)) // the kernel has it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// margin is how long before the end of a lease its holder must have withdrawn:
// the time for a withdraw to reach the routers.
func margin(ttl time.Duration) time.Duration { return max(ttl/10, 300*time.Millisecond) }
