package vip

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// deliveryBound is how long Bind waits for IPv6 addresses to work, and
// deliveryPoll how often it looks.
const (
	deliveryBound = 100 * time.Millisecond
	deliveryPoll  = time.Millisecond
)

// dropUndelivered takes the IPv6 addresses out for which the kernel takes no
// packets yet. It lists an address at once, but makes the local route for it
// later, when it was added or its device came up, in a worker that needs the
// lock which all changes of the network share (addrconf_dad_work). Routes are
// read only while an address is usable that was not before.
func (p *pass) dropUndelivered(usable map[netip.Prefix]bool) {
	for v := range p.m.delivered {
		if !usable[v] {
			delete(p.m.delivered, v)
		}
	}
	p.undelivered = nil
	for v := range usable {
		if v.Addr().Is6() && !p.m.delivered[v] {
			p.undelivered = append(p.undelivered, v)
		}
	}
	if len(p.undelivered) == 0 {
		return
	}
	// Of any table: that of a device in a VRF is not the usual one.
	local, err := p.m.conn.routes(p.ctx, unix.AF_INET6, 0, unix.RTPROT_KERNEL)
	if err != nil {
		p.fail(fmt.Errorf("read local routes: %w", err))
	}
	taken := map[netip.Prefix]bool{}
	for i := range local {
		if local[i].kind == unix.RTN_LOCAL {
			taken[local[i].dst] = true
		}
	}
	waiting := p.undelivered[:0]
	for _, v := range p.undelivered {
		if taken[v] {
			p.m.delivered[v] = true
			continue
		}
		waiting = append(waiting, v)
		delete(usable, v)
	}
	p.undelivered = waiting
}

// awaitDelivery waits until the kernel takes packets for all addresses.
func (p *pass) awaitDelivery() {
	bound := time.NewTimer(p.m.deliveryBound)
	defer bound.Stop()
	tick := time.NewTicker(deliveryPoll)
	defer tick.Stop()
	for over := false; ; {
		p.usable = nil
		p.usableAddresses()
		if len(p.undelivered) == 0 {
			return
		}
		if over {
			p.fail(fmt.Errorf("kernel does not take packets for %s yet, nor for %d others", p.undelivered[0], len(p.undelivered)-1))
			return
		}
		select {
		case <-p.ctx.Done():
			return
		case <-bound.C:
			over = true // looked at once more: this process may have been kept from looking
		case <-tick.C:
		}
	}
}
