package owner

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// claim is the value of the key by which a host has its name: whoever else comes
// with that name is another machine, and takes no part.
type claim struct {
	// Instance is Options.Instance.
	Instance string `json:"instance"`
	// Machine and ID are for people who look for the other one.
	Machine string `json:"machine,omitempty"`
	ID      string `json:"id,omitempty"`
}

// text names who has made it.
func (c *claim) text() string {
	text := cmp.Or(c.Machine, "a machine without a name")
	if c.ID != "" {
		text += ", router id " + c.ID
	}
	return text
}

// nameKey is attached to the lease of the host that has the name.
func (s *store) nameKey() string { return s.names + s.host }

// takeName takes the host's name if nobody has it, and tells who does if it is
// another one. What a former process of this instance left is taken over, once: a
// name that this process has had and lost is somebody else's.
func (s *store) takeName(ctx context.Context, mine claim) (other *claim, err error) {
	key := s.nameKey()
	put := s.put(key, mine)
	r, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(put).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return nil, fmt.Errorf("take the name %s: %w", s.host, s.judge(err))
	}
	if !r.Succeeded {
		kv := r.Responses[0].GetResponseRange().Kvs[0]
		other = &claim{}
		if json.Unmarshal(kv.Value, other) != nil {
			other = &claim{} // one that is not understood still is one
		}
		switch {
		case clientv3.LeaseID(kv.Lease) == s.lease:
		case other.Instance != mine.Instance || s.had:
			return other, nil
		default:
			unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)
			if ok, err := s.txn(ctx, []clientv3.Cmp{unchanged}, put); err != nil || !ok {
				return other, err
			}
		}
	}
	s.named, s.had, s.nameLease = true, true, s.lease
	return nil, nil
}

// name takes the host's name, as far as that is missing, and tells why this host
// takes no part without it.
func (m *Manager) name(ctx context.Context, s *store) (refused string, err error) {
	wants := m.wanted()
	if len(wants) == 0 || s.hasName() {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.bound())
	defer cancel()
	other, err := s.takeName(ctx, claim{Instance: m.opt.Instance, Machine: m.opt.Machine, ID: idText(wants[0].ID)})
	if err != nil || other == nil {
		return "", err
	}
	if s.named { // then the holds are to end, too
		s.lease, s.named = 0, false
		m.lost()
	}
	return fmt.Sprintf("another machine has the name %s (ownership.host): %s", s.host, other.text()), nil
}

// hasName tells whether the host had its name at the last reading.
func (s *store) hasName() bool { return s.lease != 0 && s.nameLease == s.lease }
