package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// store are the keys in etcd:
//
//	PREFIX vips/10.68.6.1_32/hold/HOST   of a host that announces it
//	PREFIX vips/10.68.6.1_32/ask/HOST    of a host that could
//	PREFIX hosts/HOST                    of the machine that has that name
//
// All of them are attached to the lease of their host.
type store struct {
	client *clientv3.Client
	prefix string // of vips
	names  string // and of hosts
	host   string
	lease  clientv3.LeaseID // 0 for none
	named  bool             // the lease has had the host's name
	had    bool             // a lease of this process has
	// nameLease is the lease that had it at the last reading, 0 for none.
	nameLease clientv3.LeaseID
}

// dial makes a client. It does not wait for etcd unless there is a username.
func dial(ctx context.Context, c Config, host string) (*store, error) {
	client, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: c.Endpoints, TLS: c.TLS, Username: c.Username, Password: c.Password,
		DialTimeout: 2 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		Logger:      zap.NewNop(), // what goes wrong comes back as an error
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(again(c.Lease))},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	return &store{client: client, prefix: c.Prefix + "vips/", names: c.Prefix + "hosts/", host: host}, nil
}

// again is how soon an endpoint is asked again that did not answer. What gRPC does
// without (https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md) is up to
// two minutes: for so long nobody would own anything after etcd has come back.
func again(lease time.Duration) grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: min(lease/6, time.Second)},
		MinConnectTimeout: time.Second,
	}
}

func (s *store) key(vip netip.Prefix, kind, host string) string {
	return s.prefix + strings.ReplaceAll(vip.String(), "/", "_") + "/" + kind + "/" + host
}

const (
	holdKey = "hold"
	askKey  = "ask"
)

// errNoLease says that the lease has ended, and with it all holds, or that it has
// not got the host's name any more.
var errNoLease = errors.New("the lease has ended")

// renew makes a lease if there is none, or renews it. It returns its time to
// live, which counts from some moment after the call began.
func (s *store) renew(ctx context.Context, ttl time.Duration) (time.Duration, error) {
	if s.lease == 0 {
		r, err := s.client.Grant(ctx, int64(ttl/time.Second))
		if err != nil {
			return 0, fmt.Errorf("get a lease: %w", err)
		}
		s.lease = r.ID
		return time.Duration(r.TTL) * time.Second, nil
	}
	r, err := s.client.KeepAliveOnce(ctx, s.lease)
	if err != nil {
		return 0, fmt.Errorf("renew the lease: %w", s.judge(err))
	}
	return time.Duration(r.TTL) * time.Second, nil
}

// read returns all keys at one revision.
func (s *store) read(ctx context.Context) (map[netip.Prefix]*entry, error) {
	r, err := s.client.Txn(ctx).Then(clientv3.OpGet(s.prefix, clientv3.WithPrefix()), clientv3.OpGet(s.nameKey())).Commit()
	if err != nil {
		return nil, fmt.Errorf("read the owners: %w", err)
	}
	s.nameLease = 0
	for _, kv := range r.Responses[1].GetResponseRange().Kvs {
		s.nameLease = clientv3.LeaseID(kv.Lease)
	}
	entries := map[netip.Prefix]*entry{}
	for _, kv := range r.Responses[0].GetResponseRange().Kvs {
		parts := strings.Split(strings.TrimPrefix(string(kv.Key), s.prefix), "/")
		if len(parts) != 3 {
			continue // not ours
		}
		vip, err := netip.ParsePrefix(strings.ReplaceAll(parts[0], "_", "/"))
		if err != nil {
			continue
		}
		e := entries[vip]
		if e == nil {
			e = &entry{}
			entries[vip] = e
		}
		switch parts[1] {
		case holdKey:
			// One that is not understood still is one.
			h := hold{Role: None}
			if json.Unmarshal(kv.Value, &h) != nil {
				h = hold{Role: None}
			}
			h.host, h.lease, h.modified = parts[2], kv.Lease, kv.ModRevision
			e.holds = append(e.holds, h)
		case askKey:
			a := ask{Rank: lastRank}
			if json.Unmarshal(kv.Value, &a) != nil {
				continue
			}
			a.host, a.lease = parts[2], kv.Lease
			e.asks = append(e.asks, a)
		}
	}
	for _, e := range entries {
		e.sorted()
	}
	return entries, nil
}

// lastRank is that of a VIP without one.
const lastRank = 255

// put makes a key of this host's lease, which must not be 0: that would be a key
// that never ends.
func (s *store) put(key string, value any) clientv3.Op {
	return clientv3.OpPut(key, encoded(value), clientv3.WithLease(s.lease))
}

// change changes a key and leaves it with the lease that it has.
func (s *store) change(key string, value any) clientv3.Op {
	return clientv3.OpPut(key, encoded(value), clientv3.WithIgnoreLease())
}

func encoded(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("owner: encode %T: %v", value, err)) // all of them are structs of texts and numbers
	}
	return string(text)
}

// txn does something if all conditions hold. That they do not is no error: the
// world has changed, and is looked at anew.
func (s *store) txn(ctx context.Context, ifs []clientv3.Cmp, then ...clientv3.Op) (bool, error) {
	r, err := s.client.Txn(ctx).If(ifs...).Then(then...).Commit()
	if err != nil {
		return false, s.judge(err)
	}
	return r.Succeeded, nil
}

// commit is txn for what only the machine may do that has the host's name.
func (s *store) commit(ctx context.Context, ifs []clientv3.Cmp, then ...clientv3.Op) (bool, error) {
	named := clientv3.Compare(clientv3.LeaseValue(s.nameKey()), "=", s.lease)
	r, err := s.client.Txn(ctx).If(append(slices.Clip(ifs), named)...).Then(then...).Else(clientv3.OpGet(s.nameKey())).Commit()
	if err != nil {
		return false, s.judge(err)
	}
	if !r.Succeeded {
		if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) == 0 || clientv3.LeaseID(kvs[0].Lease) != s.lease {
			return false, errNoLease
		}
	}
	return r.Succeeded, nil
}

// judge tells what an error means for the lease.
func (s *store) judge(err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.lease, s.named = 0, false
		return errNoLease
	}
	return err
}

// do carries a step out, and tells whether that went through: if not, the world has
// changed.
func (s *store) do(ctx context.Context, what step, to string, w Want, e *entry) (bool, error) {
	if s.lease == 0 {
		return false, errNoLease
	}
	own := s.key(w.VIP, holdKey, s.host)
	mine := hold{ID: idText(w.ID)}
	var held *hold
	for i := range e.holds {
		if e.holds[i].host == s.host {
			held = &e.holds[i]
		}
	}
	unchanged := func(h *hold) clientv3.Cmp {
		return clientv3.Compare(clientv3.ModRevision(s.key(w.VIP, holdKey, h.host)), "=", h.modified)
	}
	var ifs []clientv3.Cmp
	var then []clientv3.Op
	switch owner := e.owner(); what {
	case nothing:
		return false, nil
	case acquire:
		mine.Role = Owner
		free := clientv3.Compare(clientv3.CreateRevision(s.key(w.VIP, holdKey, "")), "=", 0).WithPrefix()
		ifs, then = []clientv3.Cmp{free}, []clientv3.Op{s.put(own, mine)}
	case join:
		mine.Role = Next
		absent := clientv3.Compare(clientv3.CreateRevision(own), "=", 0)
		ifs, then = []clientv3.Cmp{unchanged(owner), absent}, []clientv3.Op{s.put(own, mine)}
	case takeOver:
		mine.Role = Owner
		former := hold{Role: Former, ID: owner.ID}
		ifs = []clientv3.Cmp{unchanged(owner), unchanged(held)}
		then = []clientv3.Op{s.change(s.key(w.VIP, holdKey, owner.host), former), s.change(own, mine)}
	case inherit:
		mine.Role = Owner
		ifs, then = []clientv3.Cmp{unchanged(held)}, []clientv3.Op{s.change(own, mine)}
	case release:
		ifs, then = []clientv3.Cmp{unchanged(held)}, []clientv3.Op{clientv3.OpDelete(own)}
	case offer, recall:
		mine.Role, mine.To, mine.Epoch = Owner, to, held.epoch()
		ifs, then = []clientv3.Cmp{unchanged(held)}, []clientv3.Op{s.change(own, mine)}
	}
	done, err := s.commit(ctx, ifs, then...)
	if err != nil {
		return false, fmt.Errorf("%s of %s: %w", what, w.VIP, err)
	}
	return done, nil
}

func (s step) String() string {
	return [...]string{"no step", "acquisition", "joining", "takeover", "inheritance", "release", "offer", "recall"}[s]
}

func idText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// asking makes the own ask as it should be: who is to go asks for nothing.
func (s *store) asking(ctx context.Context, w Want, e *entry) (changed bool, err error) {
	if s.lease == 0 {
		return false, errNoLease
	}
	key := s.key(w.VIP, askKey, s.host)
	var have *ask
	for i := range e.asks {
		if e.asks[i].host == s.host {
			have = &e.asks[i]
		}
	}
	ready := w.Ready && !w.Leaving
	switch {
	case ready && (have == nil || have.Rank != w.Rank || have.Failback != w.Failback || have.lease != int64(s.lease)):
		_, err = s.commit(ctx, nil, s.put(key, ask{Rank: w.Rank, Failback: w.Failback}))
	case !ready && have != nil && have.lease == int64(s.lease):
		_, err = s.commit(ctx, nil, clientv3.OpDelete(key))
	default:
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("say that %s is ready: %w", w.VIP, err)
	}
	return true, nil
}

// move asks the owner of a VIP to hand it over to a host.
func (s *store) move(ctx context.Context, vip netip.Prefix, to string) (revision int64, err error) {
	entries, err := s.read(ctx)
	if err != nil {
		return 0, err
	}
	e := entries[vip]
	if e == nil {
		e = &entry{}
	}
	owner := e.owner()
	switch {
	case owner == nil:
		return 0, fmt.Errorf("nobody owns %s now, so there is nothing to move", vip)
	case owner.host == to:
		return 0, fmt.Errorf("%s owns %s already", to, vip)
	case !e.asked(to):
		ready := make([]string, len(e.asks))
		for i, a := range e.asks {
			ready[i] = a.host
		}
		return 0, fmt.Errorf("%q is not ready for %s; those that are: %s", to, vip, strings.Join(ready, ", "))
	case len(e.holds) > 1:
		return 0, fmt.Errorf("%s is being handed over already", vip)
	}
	key := s.key(vip, holdKey, owner.host)
	unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", owner.modified)
	r, err := s.client.Txn(ctx).If(unchanged).Then(s.change(key, hold{Role: Owner, To: to, ID: owner.ID, Epoch: owner.epoch()})).Commit()
	if err != nil {
		return 0, fmt.Errorf("move %s: %w: it may be carried out all the same", vip, err)
	}
	if !r.Succeeded {
		return 0, fmt.Errorf("the owner of %s has just changed; try again", vip)
	}
	return r.Header.Revision, nil
}
