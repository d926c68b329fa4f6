package speaker

import (
	"net/netip"

	"github.com/google/go-cmp/cmp"
)

// compare makes cmp understand addresses.
var compare = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}
