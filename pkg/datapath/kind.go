package datapath

// HookKind names the kind of hook that ports settle on: "tcx" or "clsact".
func (d *Datapath) HookKind() string {
	if d.tcx && d.cfg.Attach != AttachClsact {
		return "tcx"
	}
	return "clsact"
}
