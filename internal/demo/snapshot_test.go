package demo

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Of a family that the kernel does not have, as IPv6 on a host that was booted with
// ipv6.disable=1, there are no rules. MPLS has some nowhere.
func TestRulesOfAFamilyTheKernelLacks(t *testing.T) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	n := &namespace{nl: h}
	if list, err := n.rules(unix.AF_MPLS); err != nil || len(list) > 0 {
		t.Errorf("rules of MPLS: %v, %v", list, err)
	}
}
