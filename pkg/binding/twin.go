package binding

import (
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// What comes to a port with its own NIC's MAC is of another station that has it, as the VM that was moved and still runs where it was, or
// comes back by a loop. Of a VM that migrates it does for moments, and while its port waits for it: neither is told.

// twinFor is how far the first such frame and the last have to be apart.
const twinFor = 10 * time.Second

// twin is what comes so to a port.
type twin struct {
	vlan        vlan.ID
	since, seen time.Time
}

func (t *twin) told() bool { return t.seen.Sub(t.since) >= twinFor }

// hearTwin takes such a frame.
func (k *Keeper) hearTwin(p *port, v vlan.ID, at time.Time) {
	if p.Held {
		return
	}
	t := k.twins[p.Key]
	if t == nil {
		t = &twin{vlan: v, since: at}
		k.twins[p.Key] = t
	}
	was := t.told()
	if at.After(t.seen) {
		t.seen = at
	}
	if t.told() && !was {
		k.cfg.Log.Warn("a NIC's MAC is somebody else's, too", "what", k.macConflict(p, t).String())
		k.cfg.News()
	}
}

// endTwins ends what was not heard again, as that of somebody outside ends.
func (k *Keeper) endTwins(now time.Time) {
	for key, t := range k.twins {
		if now.Sub(t.seen) >= learn.DefaultOutside {
			k.endTwin(key)
		}
	}
}

func (k *Keeper) endTwin(key attach.Key) {
	if t := k.twins[key]; t != nil && t.told() {
		k.cfg.Log.Info("a NIC's MAC is somebody else's no more", "mac", k.ports[key].MAC, "container", key.ContainerID, "interface", key.IfName)
		k.cfg.News()
	}
	delete(k.twins, key)
}

// MACConflict is who else has the MAC of a port's NIC; nil is nobody that is known.
func (k *Keeper) MACConflict(key attach.Key) *wire.MACConflict {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t, p := k.twins[key], k.ports[key]; p != nil && t != nil && t.told() {
		return k.macConflict(p, t)
	}
	return nil
}

// MACConflicts are all that concern a VM or pod, by its name or namespace/name; "" is anybody.
func (k *Keeper) MACConflicts(want string) (out []wire.MACConflict) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, t := range k.twins {
		if p := k.ports[key]; t.told() && (want == "" || p.nic.Name == want || p.nic.Namespace+"/"+p.nic.Name == want) {
			out = append(out, *k.macConflict(p, t))
		}
	}
	return out
}

func (k *Keeper) macConflict(p *port, t *twin) *wire.MACConflict {
	c := &wire.MACConflict{Namespace: p.nic.Namespace, Name: p.nic.Name, VM: p.vm, MAC: p.MAC, VLAN: t.vlan, Place: k.uplinkPlace(p.Trunk), Since: t.since, Seen: t.seen}
	for id, n := range k.nics {
		if id != p.nic && n.mac == macOf(p.MAC) && k.networks[id.Network].trunk == p.Trunk {
			c.Others = append(c.Others, wire.AddressClaimant{Namespace: id.Namespace, Name: id.Name, VM: n.vm, MAC: p.MAC, Node: n.node})
		}
	}
	return c
}

// uplinkPlace says where what comes by a trunk's uplink was heard.
func (k *Keeper) uplinkPlace(trunk string) string {
	place := "uplink"
	if k.cfg.Node != "" {
		place += " of " + k.cfg.Node
	}
	if at := k.cfg.Uplink(trunk); at != "" {
		place += ", " + at
	}
	return place
}
