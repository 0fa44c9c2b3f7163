// Helmtemplate prints what a Helm chart comes to, as `helm template` does, by
// Helm's own engine but without its program, which is ten times as large.
//
//	helmtemplate CHART NAMESPACE [KEY=VALUE...]
package main

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/strvals"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: helmtemplate CHART NAMESPACE [KEY=VALUE...]")
		os.Exit(2)
	}
	out, err := render(os.Args[1], os.Args[2], os.Args[3:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "helmtemplate:", err)
		os.Exit(1)
	}
	fmt.Print(out)
}

func render(dir, namespace string, set []string) (string, error) {
	c, err := loader.Load(dir)
	if err != nil {
		return "", err
	}
	values := map[string]any{}
	for _, s := range set {
		if err := strvals.ParseInto(s, values); err != nil {
			return "", err
		}
	}
	caps := chartutil.DefaultCapabilities.Copy()
	caps.KubeVersion = chartutil.KubeVersion{Version: "v1.30.0", Major: "1", Minor: "30"}
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "homeport", Namespace: namespace, IsInstall: true}, caps)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return "", err
	}
	for name := range files {
		if path.Base(name) == chartutil.NotesName {
			delete(files, name)
		}
	}
	_, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	crds := c.CRDObjects()
	slices.SortFunc(crds, func(x, y chart.CRD) int { return strings.Compare(x.Name, y.Name) })
	for _, crd := range crds {
		fmt.Fprintf(&b, "---\n# Source: %s\n%s\n", crd.Filename, crd.File.Data)
	}
	for _, m := range manifests {
		fmt.Fprintf(&b, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	return b.String(), nil
}
