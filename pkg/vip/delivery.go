package vip

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// deliveryBound is how long a call waits for new IPv6 addresses to work, and
// deliveryPoll how often it looks.
const (
	deliveryBound = 100 * time.Millisecond
	deliveryPoll  = time.Millisecond
)

// awaitDelivery waits until the kernel takes packets for the IPv6 VIPs. It lists
// an address at once, but makes the local route for it later, in a worker that
// needs the lock which all changes of the network share (addrconf_dad_work).
// Until then packets for the address are lost, so a VIP that is still without
// its route does not count as bound.
func (p *pass) awaitDelivery() {
	p.m.late, p.usable = map[netip.Prefix]bool{}, nil
	usable := p.usableAddresses()
	for _, v := range p.d.VIPs {
		if v.Addr().Is6() && usable[v] {
			p.m.late[v] = true
		}
	}
	p.usable = nil
	bound := time.NewTimer(deliveryBound)
	defer bound.Stop()
	tick := time.NewTicker(deliveryPoll)
	defer tick.Stop()
	for len(p.m.late) > 0 {
		// Of any table: that of a device in a VRF is not the usual one.
		local, err := p.m.conn.routes(p.ctx, unix.AF_INET6, 0, unix.RTPROT_KERNEL)
		if err != nil {
			p.fail(fmt.Errorf("read local routes: %w", err))
			return
		}
		for i := range local {
			if local[i].kind == unix.RTN_LOCAL {
				delete(p.m.late, local[i].dst)
			}
		}
		if len(p.m.late) == 0 {
			return
		}
		select {
		case <-p.ctx.Done():
			return
		case <-bound.C:
			for v := range p.m.late {
				p.fail(fmt.Errorf("kernel does not take packets for %s yet, nor for %d others", v, len(p.m.late)-1))
				return
			}
		case <-tick.C:
		}
	}
}
