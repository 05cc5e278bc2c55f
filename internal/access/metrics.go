// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/client-go/kubernetes"
)

// metricsPath is the one path that there is a right to read.
const metricsPath = "/metrics"

// Metrics serves next to those who have the right to `get` the path /metrics: a
// nonResourceURL, as at every component of Kubernetes. It asks the API server for
// nothing before the first request.
func Metrics(client kubernetes.Interface, log logr.Logger, next http.Handler) http.Handler {
	asked := newReviews(client, log)
	who := group.NewAuthenticatedGroupAdder(bearertoken.New(cache.New(asked, false, allowTTL, denyTTL)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != metricsPath || r.Method != http.MethodGet {
			refuse(w, notFound("there is nothing but GET "+metricsPath))
			return
		}
		if mayScrape(w, r, who, asked) {
			next.ServeHTTP(w, r)
		}
	})
}

// mayScrape reports whether the caller has the right, and refuses the request if not.
func mayScrape(w http.ResponseWriter, r *http.Request, who authenticator.Request, asked *reviews) bool {
	answer, ok, err := who.AuthenticateRequest(r)
	switch {
	case errors.Is(err, errReview), r.Context().Err() != nil:
		refuse(w, tryAgain("it could not be found out who you are: try again"))
		return false
	case err != nil || !ok:
		// Why credentials are wrong is nobody's business but the API server's.
		refuse(w, unauthorized("Unauthorized"))
		return false
	}
	spec := asks(answer.User)
	spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Verb: "get", Path: metricsPath}
	d, err := asked.decide(r.Context(), spec)
	switch {
	case err != nil:
		refuse(w, tryAgain("it could not be found out whether you may read this: try again"))
	case !d.allowed:
		refuse(w, statusError(http.StatusForbidden, metav1.StatusReasonForbidden,
			fmt.Sprintf("User %q cannot get path %q", answer.User.GetName(), metricsPath)))
	}
	return err == nil && d.allowed
}
