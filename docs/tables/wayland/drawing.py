"""Rows of display, registry, surfaces, regions, buffers and feedback."""

from __future__ import annotations

from docs.tables.wayland.terms import (
    CHILD,
    END,
    END_LOCAL,
    HELD,
    KEPT,
    MAKE,
    MAKE_LOCAL,
    TOLD,
    Cost,
    Descriptors,
    Policies,
    Sender,
    event,
    request,
)

DMABUF = "zwp_linux_dmabuf_v1"
PARAMS, FEEDBACK = "zwp_linux_buffer_params_v1", "zwp_linux_dmabuf_feedback_v1"
REQUESTS: Policies = {
    ("wl_display", "sync"): request(
        "Learns how quickly the compositor answers.", Cost.OBJECT
    ),
    ("wl_display", "get_registry"): request(
        "Learns the globals that its record allows; the list is ours.", Cost.NONE
    ),
    ("wl_registry", "bind"): request(
        "An object of a global that the registry told it.", Cost.OBJECT
    ),
    ("wl_fixes", "destroy"): END_LOCAL,
    ("wl_fixes", "destroy_registry"): END_LOCAL,
    # -- surfaces --------------------------------------------------------------
    ("wl_compositor", "create_surface"): request(
        "A surface without a role, which is not shown.", Cost.OBJECT
    ),
    ("wl_compositor", "create_region"): MAKE_LOCAL,
    ("wl_surface", "destroy"): END,
    ("wl_surface", "attach"): HELD,
    ("wl_surface", "damage"): HELD,
    ("wl_surface", "damage_buffer"): HELD,
    ("wl_surface", "frame"): request("Learns when its surface is drawn.", Cost.HELD),
    ("wl_surface", "set_opaque_region"): request(
        "Nothing: believed only where the record allows translucent windows.",
        Cost.REGION,
    ),
    ("wl_surface", "set_input_region"): request(
        "Nothing: its frame takes what its surface refuses.", Cost.REGION
    ),
    ("wl_surface", "commit"): request("Shows pixels inside its frame.", Cost.COMMIT),
    ("wl_surface", "set_buffer_transform"): HELD,
    ("wl_surface", "set_buffer_scale"): HELD,
    ("wl_surface", "offset"): HELD,
    ("wl_region", "destroy"): END_LOCAL,
    ("wl_region", "add"): KEPT,
    ("wl_region", "subtract"): KEPT,
    ("wl_subcompositor", "destroy"): END,
    ("wl_subcompositor", "get_subsurface"): request(
        "A surface inside its window, cropped with it.", Cost.OBJECT
    ),
    ("wl_subsurface", "destroy"): END,
    ("wl_subsurface", "set_position"): CHILD,
    ("wl_subsurface", "place_above"): CHILD,
    ("wl_subsurface", "place_below"): CHILD,
    ("wl_subsurface", "set_sync"): KEPT,
    ("wl_subsurface", "set_desync"): KEPT,
    ("wp_viewporter", "destroy"): END,
    ("wp_viewporter", "get_viewport"): MAKE_LOCAL,
    ("wp_viewport", "destroy"): HELD,
    ("wp_viewport", "set_source"): HELD,
    ("wp_viewport", "set_destination"): HELD,
    ("wp_fractional_scale_manager_v1", "destroy"): END,
    ("wp_fractional_scale_manager_v1", "get_fractional_scale"): MAKE,
    ("wp_fractional_scale_v1", "destroy"): END,
    ("wp_presentation", "destroy"): END,
    ("wp_presentation", "feedback"): request(
        "Learns when its surface was on the screen.", Cost.HELD
    ),
    ("wp_content_type_manager_v1", "destroy"): END,
    ("wp_content_type_manager_v1", "get_surface_content_type"): MAKE,
    ("wp_content_type_v1", "destroy"): END,
    ("wp_content_type_v1", "set_content_type"): request(
        "Tells the compositor that its surface shows a film or a game.", Cost.HELD
    ),
    ("wp_fifo_manager_v1", "destroy"): END,
    ("wp_fifo_manager_v1", "get_fifo"): MAKE_LOCAL,
    ("wp_fifo_v1", "destroy"): END_LOCAL,
    ("wp_fifo_v1", "set_barrier"): HELD,
    ("wp_fifo_v1", "wait_barrier"): request(
        "Its window's picture, with the frame, waits for the one before; two at most.",
        Cost.HELD,
    ),
    # -- buffers ---------------------------------------------------------------
    ("wl_shm", "create_pool"): request(
        "The compositor maps our file, into which pictures are copied.",
        Cost.MEMORY,
        descriptors=Descriptors.CLIENT_MEMORY,
    ),
    ("wl_shm_pool", "create_buffer"): MAKE,
    ("wl_shm_pool", "destroy"): END,
    ("wl_shm_pool", "resize"): request(
        "A larger mapping, inside the sandbox's limit.", Cost.MEMORY
    ),
    ("wl_buffer", "destroy"): END,
    # -- memory of the GPU, by record only ----------------------------------------
    (DMABUF, "destroy"): END,
    (DMABUF, "create_params"): MAKE_LOCAL,
    (DMABUF, "get_default_feedback"): request(
        "Learns which device the compositor draws with, and its formats.", Cost.OBJECT
    ),
    (DMABUF, "get_surface_feedback"): request(
        "Learns which device and formats suit its surface.", Cost.OBJECT
    ),
    (PARAMS, "destroy"): END,
    (PARAMS, "add"): request(
        "Nothing before the request that uses it.",
        Cost.NONE,
        descriptors=Descriptors.GPU_MEMORY,
    ),
    (PARAMS, "create"): request(
        "The compositor's driver imports its memory.", Cost.MEMORY
    ),
    (PARAMS, "create_immed"): request(
        "The compositor's driver imports its memory.", Cost.MEMORY
    ),
    (FEEDBACK, "destroy"): END,
    ("wp_single_pixel_buffer_manager_v1", "destroy"): END,
    ("wp_single_pixel_buffer_manager_v1", "create_u32_rgba_buffer"): MAKE,
}
EVENTS: Policies = {
    ("wl_display", "error"): event(
        "Learns that its request was refused; the compositor's text is not shown."
    ),
    ("wl_display", "delete_id"): TOLD,
    ("wl_registry", "global"): event(
        "Learns what its record allows, at our versions.", Sender.FILTER
    ),
    ("wl_registry", "global_remove"): event(
        "Learns that a screen or seat is gone.", Sender.FILTER
    ),
    ("wl_callback", "done"): event("Learns the time of its surface's picture."),
    ("wl_surface", "enter"): event("Learns on which screen its window is."),
    ("wl_surface", "leave"): event("Learns on which screen its window is."),
    ("wl_surface", "preferred_buffer_scale"): event("Learns the screen's scale."),
    ("wl_surface", "preferred_buffer_transform"): event("Learns the screen's turn."),
    ("wp_fractional_scale_v1", "preferred_scale"): event("Learns the screen's scale."),
    ("wp_presentation", "clock_id"): event("Learns which clock is meant."),
    ("wp_presentation_feedback", "sync_output"): event(
        "Learns on which screen its window is."
    ),
    ("wp_presentation_feedback", "presented"): event(
        "Learns the screen's rate, and when its surface was shown."
    ),
    ("wp_presentation_feedback", "discarded"): event(
        "Learns that its surface is covered, or off the screen."
    ),
    ("wl_shm", "format"): event("Learns which pixel formats the compositor draws."),
    (DMABUF, "format"): event("Learns which pixel formats the compositor draws."),
    (DMABUF, "modifier"): event("Learns which pixel formats the compositor draws."),
    (PARAMS, "created"): TOLD,
    (PARAMS, "failed"): TOLD,
    (FEEDBACK, "done"): TOLD,
    (FEEDBACK, "format_table"): event(
        "Learns which pixel formats the compositor draws.",
        descriptors=Descriptors.COPIED_TABLE,
    ),
    (FEEDBACK, "main_device"): event("Learns which device the compositor draws with."),
    (FEEDBACK, "tranche_done"): TOLD,
    (FEEDBACK, "tranche_target_device"): event(
        "Learns which device may show its surface."
    ),
    (FEEDBACK, "tranche_formats"): event(
        "Learns which pixel formats the compositor draws."
    ),
    (FEEDBACK, "tranche_flags"): event(
        "Learns whether its surface may be scanned out."
    ),
    ("wl_buffer", "release"): event(
        "May write into its buffer; compositors may still read it."
    ),
}
