// Package monitoring holds deploy/monitoring to what it promises: its alerts and the dashboard's queries
// are evaluated by Prometheus itself (promtool), on series as agents give them.
package monitoring
